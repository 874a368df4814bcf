"""What the forward of a module computes, read from its source: which RMS norm, if it is one, and where it rounds.

The source is evaluated with symbols in place of tensors: x, the weight w, eps. What comes out is a formula with its
roundings, so two classes that write the same norm in other words have one formula, and whoever changes a step has
another. This is done for x and weight of 16 bits, where a step is computed in float32 or rounded, and for float32,
where nothing is. A statement, function or argument that is not known here has no formula. Nothing of the module runs.
"""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


class UnknownError(Exception):
    """What of a forward is not known here."""


# Formulas


def product(*factors: str) -> str:
    """The order of factors changes no bit of two, and less than an eps of float32 of more."""
    return "*".join(sorted(factors))


def rounded(formula: str) -> str:
    """To the 16 bits that x has."""
    return f"round({formula})"


# x over its root mean square.
X_HAT = ("rsqrt(eps + mean(x*x))", "x")


@dataclass(frozen=True)
class Order:
    """How x_hat becomes y: by a weight and what is added to it, and whether x_hat is rounded before it."""

    has_weight: bool = True
    weight_offset: float = 0.0
    rounds_x_hat: bool = False


# What fastln computes, of x of 16 bits and of float32.
ORDERS_OF_16_BITS = {
    rounded(product(rounded(product(*X_HAT)), "w")): Order(rounds_x_hat=True),
    rounded(product(*X_HAT, "w")): Order(),
    rounded(product(*X_HAT, "(1 + w)")): Order(weight_offset=1.0),
    rounded(product(*X_HAT)): Order(has_weight=False),
}
ORDERS_OF_FLOAT32 = {
    product(*X_HAT, "w"): Order(),
    product(*X_HAT, "(1 + w)"): Order(weight_offset=1.0),
    product(*X_HAT): Order(has_weight=False),
}


@dataclass(frozen=True)
class Norm:
    """An RMS norm over the last dimension. `weight` and `eps` are the names of the module's attributes.

    An order is None where fastln's would be another. `needs_one_dtype`: the formulas hold where weight has x's dtype.
    `choices`: and where these attributes have these values.
    """

    weight: str | None
    eps: str
    of_16_bits: Order | None
    of_float32: Order
    needs_one_dtype: bool
    choices: tuple[tuple[str, bool], ...]


def read_norm(module: torch.nn.Module) -> Norm:
    """The RMS norm that a module's forward is; UnknownError if it is none."""
    wide = _Reader(module, is_narrow=False)
    of_float32 = ORDERS_OF_FLOAT32.get(wide.formula)
    if of_float32 is None or wide.eps is None:
        raise UnknownError(f"the formula {wide.formula}")
    asks, choices = wide.asks_dtype_of_weight, wide.choices
    try:
        narrow = _Reader(module, is_narrow=True)
        of_16_bits = ORDERS_OF_16_BITS.get(narrow.formula)
        asks, choices = asks or narrow.asks_dtype_of_weight, choices | narrow.choices
    except UnknownError:
        of_16_bits = None
    needs_one_dtype = asks or (of_16_bits is not None and of_16_bits.rounds_x_hat)
    return Norm(wide.weight, wide.eps, of_16_bits, of_float32, needs_one_dtype, tuple(choices.items()))


# Values in place of those that a forward has


@dataclass(frozen=True)
class _Tensor:
    """A product, of 16 bits or of float32."""

    factors: tuple[str, ...]
    is_narrow: bool

    @property
    def formula(self) -> str:
        return product(*self.factors)


@dataclass(frozen=True)
class _DtypeOf:
    """That of a tensor."""

    is_narrow: bool


class _Self:
    """The module."""


class _Eps:
    """A number that is an attribute of the module."""


@dataclass(frozen=True)
class _Function:
    """Of `torch`, or a method of a tensor, which comes before the arguments then."""

    name: str
    owner: tuple[_Tensor, ...] = ()


@dataclass(frozen=True)
class _Names:
    """What names stand for in a function."""

    own: dict[str, Any]
    of_module: dict[str, Any]


class _Reader:
    """Evaluates the forward of a module: `formula`, and the attributes that it is about."""

    def __init__(self, module: torch.nn.Module, *, is_narrow: bool):
        self.module = module
        self.is_narrow = is_narrow
        self.weight: str | None = None
        self.eps: str | None = None
        self.choices: dict[str, bool] = {}
        self.asks_dtype_of_weight = False
        y = self._call(_function_of(module, "forward"), [_Tensor(("x",), is_narrow)])
        if not isinstance(y, _Tensor) or y.is_narrow != is_narrow:
            raise UnknownError("a result that has not x's dtype")
        self.formula = y.formula

    def _call(self, function: types.FunctionType, arguments: Sequence[Any]) -> Any:
        definition = _definition_of(function)
        given = definition.args
        names = [argument.arg for argument in given.args]
        if given.posonlyargs or given.kwonlyargs or given.vararg or given.kwarg or len(names) != 1 + len(arguments):
            raise UnknownError(f"the arguments {ast.unparse(given)}")
        own = dict(zip(names, [_Self(), *arguments], strict=True))
        return self._run(definition.body, _Names(own, function.__globals__))

    def _run(self, statements: Sequence[ast.stmt], names: _Names) -> Any:
        """What they return, None where they return nothing."""
        for statement in statements:
            match statement:
                case ast.Expr(value=ast.Constant()):  # the docstring
                    pass
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    names.own[name] = self._value(value, names)
                case ast.Return(value=ast.expr() as value):
                    return self._value(value, names)
                case ast.If(test=test, body=body, orelse=orelse):
                    result = self._run(body if self._decide(test, names) else orelse, names)
                    if result is not None:
                        return result
                case _:
                    raise UnknownError(_shown(statement))
        return None

    def _decide(self, test: ast.expr, names: _Names) -> bool:
        """By attributes of the module, and by whether x and weight have 16 bits."""
        match test:
            case ast.Compare(left=left, ops=[ast.In()], comparators=[ast.List(elts=dtypes) | ast.Tuple(elts=dtypes)]):
                dtype = self._value(left, names)
                if isinstance(dtype, _DtypeOf) and {self._value(d, names) for d in dtypes} == HALF_DTYPES:
                    return dtype.is_narrow
            case _:
                value = self._value(test, names)
                if isinstance(value, bool):
                    return value
        raise UnknownError(f"the condition {_shown(test)}")

    def _value(self, node: ast.expr, names: _Names) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.Name(id=name):
                if name in names.own:
                    return names.own[name]
                if names.of_module.get(name) is torch:
                    return torch
            case ast.Attribute(value=owner, attr=name):
                return self._attribute(self._value(owner, names), name, node)
            case ast.BinOp(left=left, op=ast.operator() as operator, right=right) if type(operator) in OPERATORS:
                return self._apply(OPERATORS[type(operator)], [self._value(left, names), self._value(right, names)], {})
            case ast.Call(func=function, args=arguments, keywords=keywords):
                values = [self._value(argument, names) for argument in arguments]
                named = {str(keyword.arg): self._value(keyword.value, names) for keyword in keywords}
                return self._called(self._value(function, names), values, named, node)
        raise UnknownError(_shown(node))

    def _attribute(self, owner: Any, name: str, node: ast.expr) -> Any:
        if isinstance(owner, _Self):
            return self._of_module(name, node)
        if owner is torch:
            found = getattr(torch, name, None)
            return found if isinstance(found, torch.dtype) else _Function(name)
        if not isinstance(owner, _Tensor):
            raise UnknownError(_shown(node))
        if name != "dtype":
            return _Function(name, (owner,))
        self.asks_dtype_of_weight |= owner.factors == ("w",)
        return _DtypeOf(owner.is_narrow)

    def _of_module(self, name: str, node: ast.expr) -> Any:
        """The weight, eps, a choice, or a method."""
        value = vars(self.module).get(name)
        if isinstance(self.module._parameters.get(name), torch.Tensor) and self.weight in (None, name):
            self.weight = name
            return _Tensor(("w",), self.is_narrow)
        if isinstance(value, bool):
            self.choices[name] = value
            return value
        if type(value) in (float, int) and self.eps in (None, name):
            self.eps = name
            return _Eps()
        if value is None and isinstance(inspect.getattr_static(type(self.module), name, None), types.FunctionType):
            return _function_of(self.module, name)
        raise UnknownError(_shown(node))

    def _called(self, function: Any, values: list[Any], named: dict[str, Any], node: ast.expr) -> Any:
        if isinstance(function, types.FunctionType) and not named:
            return self._call(function, values)
        if isinstance(function, _Function) and (function.owner or values):
            return self._apply(function.name, [*function.owner, *values], named)
        raise UnknownError(_shown(node))

    def _apply(self, name: str, values: list[Any], named: dict[str, Any]) -> Any:
        """A function of tensors, computed in 16 bits, and rounded, where all that it is given has 16."""
        tensors = [value for value in values if isinstance(value, _Tensor)]
        if name in CONVERSIONS and len(tensors) in (1, 2):
            return _converted(tensors[0], CONVERSIONS[name](*values[1:], **named))
        factors = FUNCTIONS.get(name, _no_function)(*values, **named) if tensors else None
        if factors is None:
            raise UnknownError(f"its use of {name}")
        is_narrow = all(tensor.is_narrow for tensor in tensors)
        return _Tensor((rounded(product(*factors)),) if is_narrow else factors, is_narrow)


# What is known


HALF_DTYPES = {torch.float16, torch.bfloat16}

OPERATORS: dict[type[ast.operator], str] = {
    ast.Mult: "mul",
    ast.Add: "add",
    ast.Div: "div",
    ast.Pow: "pow",
}


def _converted(tensor: _Tensor, is_narrow: bool | None) -> _Tensor:
    if is_narrow is None:
        raise UnknownError("a conversion to another dtype")
    factors = (rounded(tensor.formula),) if is_narrow and not tensor.is_narrow else tensor.factors
    return _Tensor(factors, is_narrow)


def _to(dtype: Any) -> bool | None:
    if isinstance(dtype, _DtypeOf):
        return dtype.is_narrow
    return False if dtype is torch.float32 else None


# To how many bits, by the arguments: whether to 16, None for what is not known.
CONVERSIONS: dict[str, Callable[..., bool | None]] = {
    "to": _to,
    "type": _to,
    "type_as": lambda other: other.is_narrow,
    "float": lambda: False,
}


def _no_function(*values: Any, **named: Any) -> None:
    """What is not known."""


def _mul(a: Any, b: Any) -> tuple[str, ...] | None:
    return a.factors + b.factors if isinstance(a, _Tensor) and isinstance(b, _Tensor) else None


def _add(a: Any, b: Any) -> tuple[str, ...] | None:
    """Eps, or 1 to a weight."""
    tensor, other = (a, b) if isinstance(a, _Tensor) else (b, a)
    if isinstance(other, _Eps):
        return (f"(eps + {tensor.formula})",)
    return (f"(1 + {tensor.formula})",) if type(other) in (int, float) and other == 1 else None


def _div(a: Any, b: Any) -> tuple[str, ...] | None:
    """By a root."""
    if not isinstance(b, _Tensor) or not b.formula.startswith("sqrt(") or len(b.factors) != 1:
        return None
    root = f"r{b.formula}"
    if isinstance(a, _Tensor):
        return (*a.factors, root)
    return (root,) if a == 1 else None


def _pow(a: Any, exponent: Any) -> tuple[str, ...] | None:
    if not isinstance(a, _Tensor):
        return None
    return a.factors * 2 if exponent == 2 else _root("rsqrt", a) if exponent == -0.5 else None


def _root(name: str, a: Any) -> tuple[str, ...]:
    formula = a.formula
    inner = formula[1:-1] if len(a.factors) == 1 and formula.startswith("(") else formula
    return (f"{name}({inner})",)


def _mean(a: Any, dim: Any = None, keepdim: Any = False, *, axis: Any = None) -> tuple[str, ...] | None:
    """Over the last dimension."""
    return (f"mean({a.formula})",) if (dim if axis is None else axis) == -1 and keepdim is True else None


# The factors of a result; None for what is not known.
FUNCTIONS: dict[str, Callable[..., tuple[str, ...] | None]] = {
    "mul": _mul,
    "add": _add,
    "div": _div,
    "pow": _pow,
    "square": lambda a: _pow(a, 2),
    "sqrt": functools.partial(_root, "sqrt"),
    "rsqrt": functools.partial(_root, "rsqrt"),
    "mean": _mean,
}


# Sources


def _function_of(module: torch.nn.Module, name: str) -> types.FunctionType:
    """The method of the module's class, as it is called."""
    function = inspect.getattr_static(type(module), name, None)
    if not isinstance(function, types.FunctionType):
        raise UnknownError(f"a {name} that is no function of Python")
    return function


def _definition_of(function: types.FunctionType) -> ast.FunctionDef:
    """Its source, if that is what runs: undecorated, and compiled to the same code."""
    try:
        source = inspect.getsource(function)
        # A method stays indented, since its docstring would change with it.
        (statement,) = ast.parse(f"if True:\n{source}" if source[:1].isspace() else source).body
    except (OSError, TypeError, SyntaxError, ValueError):
        raise UnknownError("no source") from None
    definition = statement.body[0] if isinstance(statement, ast.If) else statement
    if not isinstance(definition, ast.FunctionDef) or definition.decorator_list or hasattr(function, "__wrapped__"):
        raise UnknownError("a decorator")
    if function.__code__.co_freevars:
        raise UnknownError("super() or a name of an enclosing function")
    # A name that the file imports is compiled to other code than one that is a variable.
    if not any(
        _is_compiled_to(function.__code__, [*ahead, statement]) for ahead in ([], ast.parse("import torch").body)
    ):
        raise UnknownError("a source that is not what runs")
    return definition


def _is_compiled_to(own: types.CodeType, statements: list[ast.stmt]) -> bool:
    compiled = compile(ast.Module(statements, []), "source", "exec").co_consts
    code = next(constant for constant in compiled if isinstance(constant, types.CodeType))
    return (code.co_code, code.co_names, code.co_consts) == (own.co_code, own.co_names, own.co_consts)


def _shown(node: ast.AST) -> str:
    """A piece of source in a few words."""
    line = ast.unparse(node).partition("\n")[0]
    return line if len(line) <= 60 else f"{line[:57]}..."
