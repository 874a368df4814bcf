// The CPU features that a named ISA stands for, once: its region is compiled for them (target.h), and a CPU has to have
// all of them (isas.cpp). `first` is applied to the first one, `f16c` to F16C, `next` to each of the others.
#pragma once

#define FLN_AVX2(first, next, f16c) first("avx2") next("fma") f16c("f16c") next("bmi2")
#define FLN_AVX512(first, next, f16c) \
  FLN_AVX2(first, next, f16c) next("avx512f") next("avx512bw") next("avx512dq") next("avx512vl")
