"""`fastln.torch.patch`: which modules it replaces, and that nothing else of them changes."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest

torch = pytest.importorskip("torch.nn", reason="PyTorch is not installed") and pytest.importorskip("torch")
fastln_torch = pytest.importorskip("fastln.torch", exc_type=ImportError)

from torch.nn import functional  # noqa: E402

from fastln.torch import formulas  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

COLS = 48


class LlamaNorm(torch.nn.Module):
    """As models of that name write it."""

    def __init__(self, eps=1e-6):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(-1, 2, COLS))
        self.variance_epsilon = eps

    def forward(self, hidden_states):
        """Rounds before the weight."""
        input_dtype = hidden_states.dtype
        hidden_states = hidden_states.to(torch.float32)
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
        return self.weight * hidden_states.to(input_dtype)


class Named(LlamaNorm):
    """The same, inherited."""


class Short(LlamaNorm):
    """The same formula in other words, with another rounding."""

    def forward(self, x):
        wide = x.float()
        return (
            wide / torch.sqrt(self.variance_epsilon + torch.mean(wide * wide, dim=-1, keepdim=True)) * self.weight
        ).to(x.dtype)


class Plain(LlamaNorm):
    """Which never asked for 16 bits."""

    def forward(self, x):
        return self._norm(x) * self.weight

    def _norm(self, x):
        return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + self.variance_epsilon)


class OffsetRounded(LlamaNorm):
    """1 + weight in 16 bits."""

    def forward(self, x):
        y = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return (y * (1.0 + self.weight).float()).type_as(x)


def logged(function):
    @functools.wraps(function)
    def call(*arguments):
        call.count += 1
        return function(*arguments)

    call.count = 0
    return call


class SumNorm(LlamaNorm):
    """Over the sum of squares."""

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).sum(-1, keepdim=True) + self.variance_epsilon) * self.weight


class OtherAxisNorm(LlamaNorm):
    """Over another dimension."""

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + self.variance_epsilon) * self.weight


class EpsOutsideNorm(LlamaNorm):
    """Eps is added to the root."""

    def forward(self, x):
        return x / (torch.sqrt(x.pow(2).mean(-1, keepdim=True)) + self.variance_epsilon) * self.weight


class TwiceNorm(LlamaNorm):
    """Calls what it inherits."""

    def forward(self, x):
        return super().forward(super().forward(x))


class GatedNorm(LlamaNorm):
    """Takes more than x."""

    def forward(self, x, gate=None):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


class RememberingNorm(LlamaNorm):
    """Keeps x."""

    def forward(self, x):
        self.last = x
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


class InPlaceNorm(LlamaNorm):
    """Changes x."""

    def forward(self, x):
        x *= torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return x * self.weight


class InTraining(LlamaNorm):
    """Does nothing in training."""

    def forward(self, x):
        if self.training:
            return x
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


class DecoratedNorm(LlamaNorm):
    """Counts its calls."""

    @logged
    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


class WidenedNorm(LlamaNorm):
    """In double."""

    def forward(self, x):
        return (
            x.to(torch.float64)
            * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
            * self.weight
        )


class Wide(LlamaNorm):
    """The result has not x's dtype."""

    def forward(self, x):
        x = x.float()
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon) * self.weight


LEFT = {
    SumNorm: "its use of sum",
    OtherAxisNorm: "its use of mean",
    EpsOutsideNorm: "its use of div",
    TwiceNorm: "super() or a name of an enclosing function",
    GatedNorm: "the arguments self, x, gate=None",
    RememberingNorm: "self.last = x",
    InPlaceNorm: "x *= torch.rsqrt(",
    DecoratedNorm: "a decorator",
    WidenedNorm: "a conversion to another dtype",
}


@pytest.fixture
def x():
    return torch.randn(6, COLS, generator=torch.Generator().manual_seed(0))


BOUND = 4 * torch.finfo(torch.float32).eps


def assert_near(one, other, eps=BOUND):
    assert one.dtype == other.dtype
    assert (one.double() - other.double()).abs().max() <= eps * other.double().abs().max()


def model_of(*modules):
    model = torch.nn.Sequential()
    for module in modules:
        model.add_module(f"{type(module).__name__}_norm{len(model)}", module)
    return model


# What is replaced


@pytest.mark.parametrize("kind", [LlamaNorm, Named, Short, Plain, OffsetRounded])
def test_a_formula_is_known_whatever_its_words(kind, x):
    module = kind()
    expected = module(x)
    report = fastln_torch.patch(module)
    assert [entry.kind for entry in report.replaced] == [kind.__name__]
    assert "forward" in vars(module)
    assert_near(module(x), expected)
    with torch.no_grad():
        y = module(x)
        assert_near(y, expected)
        assert not torch.equal(y, expected)  # so the work was fastln's
    fastln_torch.unpatch(module)
    assert torch.equal(module(x), expected)


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_written_otherwise_is_left_alone(kind, x):
    model = model_of(kind())
    (entry,) = fastln_torch.patch(model).left
    assert entry.name == f"{kind.__name__}_norm0"
    assert entry.kind == kind.__name__
    assert LEFT[kind] in entry.note
    assert set(vars(model[0])) == set(vars(kind()))


def test_a_choice_holds_while_it_is_the_same(x, monkeypatch):
    module = InTraining().eval()
    fastln_torch.patch(module)
    calls = count_calls(monkeypatch)
    with torch.no_grad():
        module(x)
        assert module.train()(x) is x
        module.eval()(x)
    assert calls == ["taken"] * 2
    assert fastln_torch.patch(InTraining()).replaced == ()  # whose formula in training is x


def test_16_bits_are_left_to_the_original_where_it_rounds_otherwise(x, monkeypatch):
    for kind, by_fastln in ((LlamaNorm, True), (Short, True), (Plain, False), (OffsetRounded, False), (Wide, False)):
        module = kind().to(torch.bfloat16)
        expected = module(x.to(torch.bfloat16))
        fastln_torch.patch(module)
        calls = count_calls(monkeypatch)
        with torch.no_grad():
            y = module(x.to(torch.bfloat16))
        assert (calls.count("taken") == 1) == by_fastln, kind
        assert y.dtype == expected.dtype
        assert (y != expected).float().mean() <= 0.01


def count_calls(monkeypatch):
    """What the calls that follow did: "taken" by fastln, "rms_norm" of PyTorch."""
    from fastln.torch import _direct, patching

    calls = []

    def direct(*arguments):
        y = rms_norm(*arguments)
        if y is not None:
            calls.append("taken")
        return y

    def function(*arguments):
        calls.append("rms_norm")
        return of_torch(*arguments)

    monkeypatch.undo()
    rms_norm, of_torch = _direct.rms_norm, functional.rms_norm
    monkeypatch.setattr(patching._direct, "rms_norm", direct)
    monkeypatch.setattr(functional, "rms_norm", function)
    return calls


def test_other_dtypes_and_shapes_are_the_originals(x, monkeypatch):
    module, other = LlamaNorm(), LlamaNorm()
    fastln_torch.patch(module)
    calls = count_calls(monkeypatch)
    with torch.no_grad():
        for given in (x.double(), x.to(torch.bfloat16), x[0, 0], x[:, :1], x.t().contiguous().t(), x[:0], x.to("meta")):
            module.to(given.device), other.to(given.device)
            found, expected = module(given), other(given)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            assert found.is_meta or torch.equal(found, expected)
    assert calls == []


def test_a_weight_for_each_head_is_not_taken_for_more_columns(x, monkeypatch):
    module = LlamaNorm()
    module.weight = torch.nn.Parameter(torch.randn(3, 16))
    heads = x.view(6, 3, 16)
    expected = module(heads)
    fastln_torch.patch(module)
    assert torch.equal(module(heads), expected)
    with torch.no_grad():
        assert torch.equal(module(heads), expected)


def test_gradients_are_of_the_same_formula(x, monkeypatch):
    for dtype, bound in ((torch.float32, 8 * torch.finfo(torch.float32).eps), (torch.bfloat16, 2**-6)):
        for kind in (LlamaNorm, Short):
            module, other = kind().to(dtype), kind().to(dtype)
            fastln_torch.patch(module)
            calls = count_calls(monkeypatch)
            mine, others = (x.to(dtype, copy=True).requires_grad_() for _ in range(2))
            module(mine).square().sum().backward()
            other(others).square().sum().backward()
            assert calls == ["rms_norm"]
            for one, expected in ((mine.grad, others.grad), (module.weight.grad, other.weight.grad)):
                assert_near(one, expected, bound)


def test_arguments_by_name_and_wrong_ones_are_the_originals(x):
    module, other = LlamaNorm(), LlamaNorm()
    fastln_torch.patch(module)
    assert torch.equal(module(hidden_states=x), other(hidden_states=x))
    for arguments, named in (((), {}), ((x, x), {}), ((), {"x": x}), ((3,), {})):
        with pytest.raises((TypeError, AttributeError)) as mine:
            module(*arguments, **named)
        with pytest.raises((TypeError, AttributeError)) as theirs:
            other(*arguments, **named)
        assert str(mine.value) == str(theirs.value)


def test_a_class_is_read_as_it_is_now(monkeypatch):
    monkeypatch.setattr(LlamaNorm, "forward", lambda self, x: x)
    (entry,) = fastln_torch.patch(model_of(LlamaNorm())).left
    assert "no RMS norm that is known" in entry.note


def test_a_source_that_is_not_what_runs_is_not_believed(monkeypatch):
    function = copy.copy(LlamaNorm.forward)
    code = LlamaNorm.forward.__code__
    constants = tuple(3 if constant == 2 else constant for constant in code.co_consts)
    changed = type(function)(code.replace(co_consts=constants), function.__globals__)
    monkeypatch.setattr(LlamaNorm, "forward", changed)
    (entry,) = fastln_torch.patch(model_of(LlamaNorm())).left
    assert entry.note == "no RMS norm that is known, for a source that is not what runs"


def test_a_forward_on_the_instance_stays(x):
    module = LlamaNorm()
    module.forward = lambda x: x
    (entry,) = fastln_torch.patch(model_of(module)).left
    assert entry.note == "it has a forward of its own, which is not its class's"
    fastln_torch.unpatch(module)
    assert module(x) is x


def test_parameters_that_are_replaced_or_computed_are_followed(x):
    module, other = LlamaNorm(), LlamaNorm()
    fastln_torch.patch(module)
    with torch.no_grad():
        for one in (module, other):
            one.weight = torch.nn.Parameter(torch.linspace(3, 4, COLS))
            one.variance_epsilon = 0.5
        assert_near(module(x), other(x))
        for one in (module, other):
            torch.nn.utils.parametrize.register_parametrization(one, "weight", torch.nn.Tanh())
        assert_near(module(x), other(x))


# What stays as it was


@pytest.fixture
def patched():
    model = model_of(LlamaNorm(), torch.nn.Linear(COLS, COLS), Short())
    fastln_torch.patch(model)
    return model


def assert_patched(model, *, patched=True):
    assert ["forward" in vars(module) for module in model] == [patched, False, patched]


def test_a_deep_copy_is_patched_and_apart(patched, x):
    other = copy.deepcopy(patched)
    assert_patched(other)
    with torch.no_grad():
        expected = patched(x)
        assert torch.equal(other(x), expected)
        patched[0].weight.zero_()
        assert torch.equal(other(x), expected)
        assert patched(x).abs().max() < expected.abs().max()
    fastln_torch.unpatch(other)
    assert_patched(patched)
    shared = torch.nn.ModuleList([patched[0], patched[0]])
    both = copy.deepcopy(shared)
    assert both[0] is both[1]
    assert both[0].forward.__self__ is both[0]


def test_a_pickle_is_that_of_the_model_before(patched, tmp_path):
    content = pickle.dumps(patched)
    assert b"fastln" not in content
    fastln_torch.unpatch(patched)
    assert content == pickle.dumps(patched)
    fastln_torch.patch(patched)
    torch.save(patched, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (pickle.loads(content), loaded):
        assert_patched(other, patched=False)
        assert len(fastln_torch.patch(other).replaced) == 2
        assert_patched(other)


def test_a_shallow_copy_has_the_forward_of_its_class(patched, x):
    other = copy.copy(patched[0])
    assert "forward" not in vars(other)
    other._parameters = {"weight": torch.nn.Parameter(torch.zeros(COLS))}
    assert not other(x).any()


def test_hooks_state_and_types_stay(patched, x):
    seen = []
    patched[0].register_forward_pre_hook(lambda module, given: seen.append("before"))
    patched[0].register_forward_hook(lambda module, given, y: seen.append("after"))
    patched[0].register_full_backward_hook(lambda module, dx, dy: seen.append("backward"))
    patched(x.requires_grad_()).sum().backward()
    assert seen == ["before", "after", "backward"]
    plain = model_of(LlamaNorm(), torch.nn.Linear(COLS, COLS), Short())
    assert list(patched.state_dict()) == list(plain.state_dict())
    assert not patched.load_state_dict(plain.state_dict()).missing_keys
    assert type(patched[0]) is LlamaNorm
    assert isinstance(patched[0], LlamaNorm)
    assert [name for name, _ in patched.named_modules()] == [name for name, _ in plain.named_modules()]
    assert repr(patched) == repr(plain)


def test_a_compiler_and_an_exporter_see_the_original(patched, x):
    graphs = []

    def backend(graph, given):
        graphs.append(graph.code)
        return graph

    texts = []
    for model in (patched, model_of(LlamaNorm(), torch.nn.Linear(COLS, COLS), Short())):
        model.load_state_dict(patched.state_dict())
        torch.compiler.reset()
        torch.compile(model, backend=backend, fullgraph=True)(x)
        exported = [torch.export.export(model, (x,), strict=strict) for strict in (False, True)]
        with torch.no_grad():
            traced = torch.jit.trace(model, x).inlined_graph
        made = torch.fx.experimental.proxy_tensor.make_fx(model)(x)
        texts.append([str(program.graph) for program in exported] + [made.code, len(list(traced.nodes()))])
    assert graphs[0] == graphs[1]
    assert texts[0] == texts[1]


def test_transforms_of_functions_see_the_original(patched, x):
    plain = model_of(LlamaNorm(), torch.nn.Linear(COLS, COLS), Short())
    plain.load_state_dict(patched.state_dict())
    func = torch.func
    for transform in (
        lambda m: torch.vmap(m)(x),
        lambda m: func.jvp(m, (x,), (x,))[1],
        lambda m: torch.vmap(func.grad(lambda x: m(x).sum()))(x),
    ):
        assert torch.equal(transform(patched), transform(plain))
    given = {name: torch.zeros_like(value) for name, value in patched.named_parameters()}
    with torch.no_grad():
        assert not func.functional_call(patched, given, x).any()


# The report


def test_the_report_says_what_became_of_each_norm():
    model = torch.nn.Sequential(LlamaNorm(), LlamaNorm(), torch.nn.LayerNorm(4), torch.nn.BatchNorm1d(4))
    model.append(torch.nn.Linear(2, 2))
    model.append(OffsetRounded())

    class NormAndMore(torch.nn.Sequential):
        """A module with a norm in it."""

    model.add_module("last", NormAndMore(GatedNorm()))
    report = fastln_torch.patch(model, dry_run=True)
    assert report.dry_run
    assert not any("forward" in vars(module) for module in model.modules())
    assert [entry.name for entry in report.replaced] == ["0", "1", "5"]
    assert (
        repr(report)
        == """\
fastln.torch.patch, dry run: would replace 3 of 6 norms
  replaced  2 LlamaNorm: round(x_hat) * weight, rounded again (0, 1)
  replaced  1 OffsetRounded: float32 alone: rounds 16 bits in an order that fastln has not (5)
  left      1 LayerNorm: PyTorch's own, which fastln.torch.enable() takes (2)
  left      1 BatchNorm1d: PyTorch's own (3)
  left      1 GatedNorm: no RMS norm that is known, for the arguments self, x, gate=None (last.0)"""
    )
    assert not fastln_torch.patch(model).dry_run
    again = fastln_torch.patch(model)
    assert again.replaced == ()
    assert [entry.note for entry in again.left][:2] == ["patched before"] * 2


@pytest.mark.parametrize("function", [fastln_torch.patch, fastln_torch.unpatch])
def test_what_is_no_model_is_refused(function):
    with pytest.raises(
        TypeError, match=r"^model must be a torch.nn.Module, got Tensor of torch.float32, shape \(2,\)$"
    ):
        function(torch.ones(2))


def test_formulas_are_of_what_fastln_computes():
    assert len(formulas.ORDERS_OF_16_BITS) == 4
    assert formulas.rounded(formulas.product(*formulas.X_HAT)) == "round(rsqrt(eps + mean(x*x))*x)"
