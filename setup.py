"""Build of the extension modules: the only file that knows compilers."""

import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from glob import glob
from itertools import chain, repeat
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build import build
from setuptools.command.build_ext import build_ext

# Baseline flags for everything: the kernels choose their instruction set in the source (src/target.h).
# -ffp-contract=off: a fused multiply-add only where it is written, so that all ISAs round alike.
CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-fvisibility=hidden"]
# Unset first: some compilers come with a level of their own.
HARDENING = ["-U_FORTIFY_SOURCE", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2"]
LINK_FLAGS = ["-Wl,-z,relro,-z,now,-z,noexecstack"] if sys.platform.startswith("linux") else []
STRICT_FLAGS = ["-Wall", "-Wextra", "-Werror"]  # FASTLN_STRICT=1
# FASTLN_SANITIZE=address,undefined: a build that ends the process at the first wrong access or undefined result, in a
# place of its own, so that no object of one kind is taken for one of the other. Nothing is inlined but the intrinsics:
# with the register operations inlined, the guards of variables on the stack take the compiler more than 5 minutes and
# 2 GB for target_avx2.cpp instead of about 2.5 minutes and 0.5 GB (target_scalar.cpp: 85 s). Functions are not
# fortified, since the sanitizer does not know those that are.
SANITIZERS = os.environ.get("FASTLN_SANITIZE", "")
SANITIZED_PLACE = f"build/sanitize/{SANITIZERS.replace(',', '-')}"
SANITIZED_FLAGS = ["-O1", "-g1", "-fno-inline", "-DFLN_INLINE=inline", "-fno-omit-frame-pointer"]
if SANITIZERS:
    CHECKS = [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all"]
    CXX_FLAGS = [flag for flag in CXX_FLAGS if flag not in ("-O3", "-g0")] + SANITIZED_FLAGS + CHECKS
    HARDENING = []
    LINK_FLAGS = LINK_FLAGS + CHECKS
OPENMP_FLAG = "-fopenmp"
SERIAL_FLAGS = ["-Wno-unused-but-set-variable"]  # Cython's parallel loops have variables that only OpenMP reads

# All of src/ is linked into this one; the others reach the kernels by cimport.
MODULE_OF_KERNELS = "fastln._core.isa"

# What takes the compiler longest, first: started last, it would be waited for alone.
SLOWEST = [f"src/target_{isa}.cpp" for isa in ("avx2", "avx512", "neon", "sse2", "scalar")]

# Where the CPU has better kernels, nobody runs the scalar ones but the tests. 63 s become 36 s; the bits are the same.
SCALAR, SCALAR_FLAGS = "src/target_scalar.cpp", ["-O1"]
HAS_OTHER_KERNELS = platform.machine().lower() in ("x86_64", "amd64", "aarch64", "arm64")

PROBE = "#include <Python.h>\nint main() { return 0; }\n"
OPENMP_PROBE = """#include <omp.h>
int main() {
  int threads = 0;
#pragma omp parallel reduction(+ : threads)
  threads += omp_get_num_threads();
  return threads < 1;
}
"""


def find(pattern: str) -> list[str]:
    """The files of a kind, in an order that is always the same."""
    return sorted(glob(pattern, recursive=True))


def say(text: str) -> None:
    """A line for whoever waits for the build; pip shows it with -v."""
    sys.stderr.write(f"fastln: {text}\n")  # at once: the threads of the pool would mix what print writes in pieces


@contextmanager
def silence():
    """Within: what compilers say is not seen."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def builds(compiler, program: str, flags: list[str]) -> bool:
    """Whether the compiler builds and links a small program with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.cpp")
        with open(source, "w") as file:
            file.write(program)
        try:
            objects = compiler.compile([source], output_dir=folder, extra_postargs=flags)
            executable = os.path.join(folder, "probe")
            compiler.link_executable(objects, executable, extra_postargs=flags, target_lang="c++")
        except Exception:
            return False
    return True


def require_compiler(compiler) -> None:
    """End the build with one sentence where there is no compiler; what one that fails says stands above it."""
    if not builds(compiler, PROBE, CXX_FLAGS):
        name = compiler.compiler_so_cxx[0]
        fault = "does not build a small program with Python.h" if shutil.which(name) else "is not there"
        raise SystemExit(f"fastln: a C++17 compiler is needed, and {name} {fault}: install g++ or name one in CXX")


def openmp_flags(compiler) -> list[str]:
    """What a build for several threads needs; nothing where that is refused (FASTLN_OPENMP=0) or not there."""
    if os.environ.get("FASTLN_OPENMP", "1") == "0":
        return []
    with silence():
        if builds(compiler, OPENMP_PROBE, [OPENMP_FLAG]):
            return [OPENMP_FLAG]
    say(f"the compiler does not take {OPENMP_FLAG} (clang needs libomp for it); this build runs on one thread")
    return []


def write_options(path: str, compiler, flags: list[str]) -> str:
    """A file that is written anew only if something else than the sources has changed: all modules depend on it."""
    command = compiler.compiler_so_cxx
    asked = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False)
    lines = [*command, asked.stdout.partition("\n")[0], *flags, *LINK_FLAGS, f"numpy {numpy.__version__}"]
    options = "\n".join(lines) + "\n"
    if not os.path.exists(path) or Path(path).read_text() != options:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(options)
    return path


def side_by_side(compile_sources, pool: ThreadPoolExecutor):
    """compile_sources, a compiler's method, with each of its sources on a thread of the pool.

    setuptools builds modules side by side, but one source of a module after the other, and the kernels of all
    instruction sets are in one module.
    """

    def compile_one(source, options):
        began = time.monotonic()
        if source == SCALAR and HAS_OTHER_KERNELS:
            options = options | {"extra_postargs": [*options["extra_postargs"], *SCALAR_FLAGS]}
        objects = compile_sources([source], **options)
        say(f"compiled {source} ({time.monotonic() - began:.0f} s)")
        return objects

    def compile_all(sources, **options):
        order = sorted(sources, key=lambda source: SLOWEST.index(source) if source in SLOWEST else len(SLOWEST))
        return list(chain.from_iterable(pool.map(compile_one, order, repeat(options))))

    return compile_all


class Build(build_ext):
    """build_ext that knows which flags the compiler takes, compiles all sources side by side, and says what it does."""

    def run(self):
        """Build as usual, an editable install too: setuptools would build it in folders that it removes afterwards."""
        if SANITIZERS and self.inplace:
            raise SystemExit(f"fastln: a sanitized build goes to {SANITIZED_PLACE}: run python setup.py build")
        if not self.editable_mode:
            super().run()
            return
        removed = self.build_lib
        lasting = build(self.distribution)
        lasting.ensure_finalized()
        self.build_lib, self.build_temp = lasting.build_lib, lasting.build_temp
        super().run()
        for module in self.get_outputs():
            copy = os.path.join(removed, os.path.relpath(module, self.build_lib))
            self.mkpath(os.path.dirname(copy))
            self.copy_file(module, copy)
        self.build_lib = removed

    def build_extensions(self):
        """Complete the flags of each extension, then build as usual."""
        require_compiler(self.compiler)
        openmp = openmp_flags(self.compiler)
        flags = CXX_FLAGS + HARDENING + (STRICT_FLAGS if os.environ.get("FASTLN_STRICT") == "1" else [])
        told = " ".join(flags + openmp)
        options = write_options(os.path.join(self.build_temp, "options.txt"), self.compiler, flags + openmp)
        for extension in self.extensions:
            extension.depends.append(options)
            extension.extra_compile_args += flags
            extension.extra_link_args += LINK_FLAGS
            if extension.name != MODULE_OF_KERNELS:  # the kernels are the same with and without OpenMP
                extension.extra_compile_args += openmp or SERIAL_FLAGS
                extension.extra_link_args += openmp
            extension.define_macros += [("FLN_BUILD_FLAGS", f'"{told}"')]
        self.extensions.sort(key=lambda extension: extension.name != MODULE_OF_KERNELS)  # it takes longest
        self.parallel = self.parallel or os.cpu_count()
        with ThreadPoolExecutor(self.parallel) as pool:
            self.compiler.compile = side_by_side(self.compiler.compile, pool)
            super().build_extensions()


def extension(source: str) -> Extension:
    """One module of the package."""
    name = source.removesuffix(".pyx").replace("/", ".")
    has_kernels = name == MODULE_OF_KERNELS
    return Extension(
        name,
        [source, *(find("src/*.cpp") if has_kernels else [])],
        include_dirs=["src", "fastln/_core", "fastln/torch", numpy.get_include()],
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
        # Of .pxd files, Cython knows which are used.
        depends=find("src/**/*.h") if has_kernels else ["src/fastln.h", *find("fastln/**/*.h")],
        language="c++",
    )


setup(
    long_description=runpy.run_path("tools/index_readme.py")["index_readme"](),
    long_description_content_type="text/markdown",
    ext_modules=cythonize(
        [extension(source) for source in find("fastln/**/*.pyx")],
        build_dir="build",
        compiler_directives={
            "language_level": "3",
            "binding": True,
            "embedsignature": False,
            "annotation_typing": False,
        },
    ),
    cmdclass={"build_ext": Build},
    options={"build": {"build_base": SANITIZED_PLACE, "build_lib": f"{SANITIZED_PLACE}/lib"}} if SANITIZERS else {},
)
