// The CPU features that a named ISA stands for, once: its region is compiled for them (target.h), and a CPU has to have
// all of them (isas.cpp). `first` is applied to the first one, `next` to each of the others.
#pragma once

#define FLN_AVX2(first, next) first("avx2") next("fma") next("f16c") next("bmi2")
#define FLN_AVX512(first, next) FLN_AVX2(first, next) next("avx512f") next("avx512bw") next("avx512dq") next("avx512vl")
