"""Build of the extension modules: the only file that knows compilers."""

import os
import runpy
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from itertools import chain

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup
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


def find(pattern: str) -> list[str]:
    """The files of a kind, in an order that is always the same."""
    return sorted(glob(pattern, recursive=True))


def compiles(compiler, flag: str) -> bool:
    """Whether the compiler builds and links a small program with the flag."""
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.cpp")
        with open(source, "w") as file:
            file.write("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
        try:
            objects = compiler.compile([source], output_dir=folder, extra_postargs=[flag])
            compiler.link_executable(objects, os.path.join(folder, "probe"), extra_postargs=[flag])
        except Exception:
            return False
    return True


def side_by_side(compile_sources, pool: ThreadPoolExecutor):
    """compile_sources, a compiler's method, with each of its sources on a thread of the pool.

    setuptools builds modules side by side, but one source of a module after the other, and the kernels of all
    instruction sets are in one module.
    """

    def compile_all(sources, **options):
        objects = pool.map(lambda source: compile_sources([source], **options), sources)
        return list(chain.from_iterable(objects))

    return compile_all


class Build(build_ext):
    """build_ext that leaves OpenMP out where it is refused (FASTLN_OPENMP=0) or not there, and records the facts."""

    def build_extensions(self):
        """Complete the flags of each extension, then build as usual."""
        if SANITIZERS and self.inplace:
            raise SystemExit(f"fastln: a sanitized build goes to {SANITIZED_PLACE}: run python setup.py build")
        wanted = os.environ.get("FASTLN_OPENMP", "1") != "0"
        openmp = [OPENMP_FLAG] if wanted and compiles(self.compiler, OPENMP_FLAG) else []
        if wanted and not openmp:
            print(
                f"fastln: the compiler does not take {OPENMP_FLAG}; this build runs on one thread",
                file=sys.stderr,
            )
        flags = CXX_FLAGS + HARDENING + openmp + (STRICT_FLAGS if os.environ.get("FASTLN_STRICT") == "1" else [])
        for extension in self.extensions:
            extension.extra_compile_args += flags
            extension.extra_link_args += openmp + LINK_FLAGS
            extension.define_macros += [("FLN_BUILD_FLAGS", f'"{" ".join(flags)}"')]
        self.parallel = self.parallel or os.cpu_count()
        with ThreadPoolExecutor(self.parallel) as pool:
            self.compiler.compile = side_by_side(self.compiler.compile, pool)
            super().build_extensions()


def extension(source: str) -> Extension:
    """One module of the package. The kernels are linked into that of the ISAs; the others reach them by cimport."""
    name = source.removesuffix(".pyx").replace("/", ".")
    has_kernels = name.endswith(".isa")
    return Extension(
        name,
        [source, *(find("src/*.cpp") if has_kernels else [])],
        include_dirs=["src", "fastln/_core", numpy.get_include()],
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
