// SPDX-License-Identifier: Apache-2.0
// SRF_TARGET, an identifier of what the code of a kernel depends on: the instruction set that the compiler may use, OpenMP,
// oneDNN, -ffast-math, and nvcc. Backends, and kernels that are no templates over a backend, are in an inline namespace of
// this name:
//
//   inline namespace SRF_TARGET { class EigenBackend; }    // srformer::avx2_openmp::EigenBackend
//   namespace SRF_DETAIL { struct Dots; }                  // srformer::detail::avx2_openmp::Dots
//
// so that files of one program may be compiled with different flags: each calls the code that was compiled with its own. A
// template over such a type has the name in its arguments. Views, options, configurations and errors have one name in
// all files, and may be passed between them; docs/backend.md says what else files share.
#pragma once

#define SRF_TARGET_JOINED(a, b, c, d, e, f, g, h) a##b##c##d##e##f##g##h
#define SRF_TARGET_JOIN(a, b, c, d, e, f, g, h) SRF_TARGET_JOINED(a, b, c, d, e, f, g, h)

// SRF_TARGET_IF(macro, name) is the name where the macro is defined as 1, and nothing where it is not defined.
#define SRF_TARGET_FLAG_1 ~,
#define SRF_TARGET_SECOND(first, second, ...) second
#define SRF_TARGET_SECOND_OF(...) SRF_TARGET_SECOND(__VA_ARGS__)
#define SRF_TARGET_PASTED(value, name) SRF_TARGET_SECOND_OF(SRF_TARGET_FLAG_##value name, , )
#define SRF_TARGET_IF(macro, name) SRF_TARGET_PASTED(macro, name)

// A level has all features of that of x86-64 (psABI) and is named by its vectors. Features above the level are named one by
// one, those that compilers use by themselves.
#if defined(__x86_64__) || defined(__i386__)

#if !(defined(__SSE3__) && defined(__SSSE3__) && defined(__SSE4_1__) && defined(__SSE4_2__) && \
      defined(__POPCNT__))
#define SRF_TARGET_LEVEL sse2
#elif !(defined(__AVX__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && \
        defined(__BMI__) && defined(__BMI2__) && defined(__LZCNT__) && defined(__MOVBE__))
#define SRF_TARGET_LEVEL sse4
#elif !(defined(__AVX512F__) && defined(__AVX512CD__) && defined(__AVX512BW__) && \
        defined(__AVX512DQ__) && defined(__AVX512VL__))
#define SRF_TARGET_LEVEL avx2
#else
#define SRF_TARGET_LEVEL avx512
#endif

#if defined(__SSE3__) && defined(__SSSE3__) && defined(__SSE4_1__) && defined(__SSE4_2__) && \
    defined(__POPCNT__)
#define SRF_TARGET_128
#else
#define SRF_TARGET_128                                                                  \
  SRF_TARGET_JOIN(SRF_TARGET_IF(__SSE3__, _sse3), SRF_TARGET_IF(__SSSE3__, _ssse3),     \
                  SRF_TARGET_IF(__SSE4_1__, _sse41), SRF_TARGET_IF(__SSE4_2__, _sse42), \
                  SRF_TARGET_IF(__POPCNT__, _popcnt), , , )
#endif
#if defined(__AVX__) && defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && \
    defined(__BMI__) && defined(__BMI2__) && defined(__LZCNT__) && defined(__MOVBE__)
#define SRF_TARGET_256
#else
#define SRF_TARGET_256                                                          \
  SRF_TARGET_JOIN(SRF_TARGET_IF(__AVX__, _avx), SRF_TARGET_IF(__AVX2__, _avx2), \
                  SRF_TARGET_IF(__FMA__, _fma), SRF_TARGET_IF(__F16C__, _f16c), \
                  SRF_TARGET_IF(__BMI__, _bmi), SRF_TARGET_IF(__BMI2__, _bmi2), \
                  SRF_TARGET_IF(__LZCNT__, _lzcnt), SRF_TARGET_IF(__MOVBE__, _movbe))
#endif
#if defined(__AVX512F__) && defined(__AVX512CD__) && defined(__AVX512BW__) && \
    defined(__AVX512DQ__) && defined(__AVX512VL__)
#define SRF_TARGET_512
#else
#define SRF_TARGET_512                                                                    \
  SRF_TARGET_JOIN(SRF_TARGET_IF(__AVX512F__, _avx512f), SRF_TARGET_IF(__AVX512CD__, _cd), \
                  SRF_TARGET_IF(__AVX512BW__, _bw), SRF_TARGET_IF(__AVX512DQ__, _dq),     \
                  SRF_TARGET_IF(__AVX512VL__, _vl), , , )
#endif
#define SRF_TARGET_MORE                                                                         \
  SRF_TARGET_JOIN(SRF_TARGET_IF(__AVX512VNNI__, _vnni), SRF_TARGET_IF(__AVX512VBMI__, _vbmi),   \
                  SRF_TARGET_IF(__AVX512VBMI2__, _vbmi2), SRF_TARGET_IF(__AVX512IFMA__, _ifma), \
                  SRF_TARGET_IF(__AVX512BITALG__, _bitalg),                                     \
                  SRF_TARGET_IF(__AVX512VPOPCNTDQ__, _popcntdq),                                \
                  SRF_TARGET_IF(__AVX512BF16__, _bf16), SRF_TARGET_IF(__AVX512FP16__, _fp16))
#define SRF_TARGET_LATEST                                                               \
  SRF_TARGET_JOIN(SRF_TARGET_IF(__AVXVNNI__, _avxvnni), SRF_TARGET_IF(__GFNI__, _gfni), \
                  SRF_TARGET_IF(__FMA4__, _fma4), SRF_TARGET_IF(__XOP__, _xop), , , , )
#define SRF_TARGET_ISA                                                              \
  SRF_TARGET_JOIN(SRF_TARGET_LEVEL, SRF_TARGET_128, SRF_TARGET_256, SRF_TARGET_512, \
                  SRF_TARGET_MORE, SRF_TARGET_LATEST, , )

#elif defined(__aarch64__)

#define SRF_TARGET_ISA                                                                           \
  SRF_TARGET_JOIN(                                                                               \
      neon, SRF_TARGET_IF(__ARM_FEATURE_DOTPROD, _dotprod),                                      \
      SRF_TARGET_IF(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC, _fp16),                                \
      SRF_TARGET_IF(__ARM_FEATURE_BF16, _bf16), SRF_TARGET_IF(__ARM_FEATURE_MATMUL_INT8, _i8mm), \
      SRF_TARGET_IF(__ARM_FEATURE_SVE, _sve), SRF_TARGET_IF(__ARM_FEATURE_SVE2, _sve2),          \
      SRF_TARGET_IF(__ARM_FEATURE_ATOMICS, _lse))

#else
#define SRF_TARGET_ISA generic
#endif

#if defined(_OPENMP)
#define SRF_TARGET_OPENMP _openmp
#else
#define SRF_TARGET_OPENMP
#endif

#if defined(SRF_HAS_ONEDNN)
#define SRF_TARGET_ONEDNN _onednn
#else
#define SRF_TARGET_ONEDNN
#endif

// nvcc defines it for the compiler of the host and for that of each architecture alike; a kernel that is launched in one of them
// is looked up by the name it has in the other. Kernels in .cu files are written with other instructions than in .cpp files.
#if defined(__CUDACC__)
#define SRF_TARGET_CUDA _cuda
#else
#define SRF_TARGET_CUDA
#endif

#if defined(__FAST_MATH__)
#define SRF_TARGET_MATH _fastmath
#elif defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#define SRF_TARGET_MATH _finitemath
#else
#define SRF_TARGET_MATH
#endif

#define SRF_TARGET                                                                       \
  SRF_TARGET_JOIN(SRF_TARGET_ISA, SRF_TARGET_CUDA, SRF_TARGET_OPENMP, SRF_TARGET_ONEDNN, \
                  SRF_TARGET_MATH, , , )

#define SRF_DETAIL detail::inline SRF_TARGET
