// SPDX-License-Identifier: Apache-2.0
// Large products of floats by oneDNN, row-major:
//
//   C [m,n] = alpha op(A) [m,k] op(B) [k,n] + beta C
//
// Two of its ways: sgemm, and the primitive matmul, which is up to twice as fast where B alone is
// transposed, as the weights of a linear layer are. Both use as many threads as OpenMP has at hand. The
// library's C interface takes a thirtieth of the time to compile that its C++ interface takes; versions 2
// and 3 describe matrices differently. Empty where SRF_HAS_ONEDNN is not defined.
#pragma once

#if defined(SRF_HAS_ONEDNN)
#include <dnnl.h>

#include <string>

#include <srformer/core/error.hpp>
#include <srformer/core/view.hpp>

namespace srformer::SRF_DETAIL {

inline void check_onednn(dnnl_status_t status) {
  if (status == dnnl_success) return;
  throw backend_error("large_gemm: oneDNN refused a product with status " +
                      std::to_string(static_cast<int>(status)));
}

/// Something of oneDNN's, destroyed at the end of its scope.
template <class Handle, auto destroy>
class Onednn {
 public:
  /// What create(&handle, arguments...) makes.
  template <class Create, class... Arguments>
  explicit Onednn(Create create, const Arguments&... arguments) {
    check_onednn(create(&handle_, arguments...));
  }
  Onednn(const Onednn&) = delete;
  Onednn& operator=(const Onednn&) = delete;
  ~Onednn() { destroy(handle_); }
  operator Handle() const { return handle_; }  // NOLINT: it stands for the handle

 private:
  Handle handle_ = nullptr;
};

using OnednnMemory = Onednn<dnnl_memory_t, dnnl_memory_destroy>;
using OnednnAttributes = Onednn<dnnl_primitive_attr_t, dnnl_primitive_attr_destroy>;
using OnednnSteps = Onednn<dnnl_post_ops_t, dnnl_post_ops_destroy>;
using OnednnPlan = Onednn<dnnl_primitive_desc_t, dnnl_primitive_desc_destroy>;

/// The extents and strides of a matrix.
struct OnednnShape {
  OnednnShape(index_t rows, index_t columns, index_t row_stride, index_t column_stride) {
    const dnnl_dims_t extents{rows, columns}, strides{row_stride, column_stride};
#if DNNL_VERSION_MAJOR >= 3
    check_onednn(dnnl_memory_desc_create_with_strides(&shape, 2, extents, dnnl_f32, strides));
  }
  ~OnednnShape() { dnnl_memory_desc_destroy(shape); }
  dnnl_memory_desc_t get() const { return shape; }
#else
    check_onednn(dnnl_memory_desc_init_by_strides(&shape, 2, extents, dnnl_f32, strides));
  }
  const dnnl_memory_desc_t* get() const { return &shape; }
#endif
  OnednnShape(const OnednnShape&) = delete;
  OnednnShape& operator=(const OnednnShape&) = delete;

  dnnl_memory_desc_t shape{};
};

/// C = alpha A B^T + beta C by matmul.
inline void onednn_matmul(index_t m, index_t n, index_t k, float alpha, const float* a, index_t lda,
                          const float* b, index_t ldb, float beta, float* c, index_t ldc) {
  const Onednn<dnnl_engine_t, dnnl_engine_destroy> engine(dnnl_engine_create, dnnl_cpu,
                                                          std::size_t{0});
  const Onednn<dnnl_stream_t, dnnl_stream_destroy> stream(dnnl_stream_create, engine,
                                                          dnnl_stream_default_flags);
  const OnednnShape left(m, k, lda, 1), right(k, n, 1, ldb), out(m, n, ldc, 1);
  const auto memory = [&](const OnednnShape& shape, const float* x) {
    return OnednnMemory(dnnl_memory_create, shape.get(), engine, const_cast<float*>(x));
  };
  const OnednnMemory from_a = memory(left, a), from_b = memory(right, b), to_c = memory(out, c);

  const OnednnAttributes attributes(dnnl_primitive_attr_create);
  const OnednnSteps steps(dnnl_post_ops_create);
#if DNNL_VERSION_MAJOR >= 3
  if (alpha != 1) check_onednn(dnnl_post_ops_append_eltwise(steps, dnnl_eltwise_linear, alpha, 0));
  if (beta != 0) check_onednn(dnnl_post_ops_append_sum(steps, beta, 0, dnnl_data_type_undef));
#else
  if (alpha != 1)
    check_onednn(dnnl_post_ops_append_eltwise(steps, 1, dnnl_eltwise_linear, alpha, 0));
  if (beta != 0) check_onednn(dnnl_post_ops_append_sum(steps, beta));
#endif
  check_onednn(dnnl_primitive_attr_set_post_ops(attributes, steps));
#if DNNL_VERSION_MAJOR >= 3
  const OnednnPlan plan(dnnl_matmul_primitive_desc_create, engine, left.get(), right.get(), nullptr,
                        out.get(), attributes);
#else
  dnnl_matmul_desc_t product;
  check_onednn(dnnl_matmul_desc_init(&product, left.get(), right.get(), nullptr, out.get()));
  const OnednnPlan plan(dnnl_primitive_desc_create, &product, attributes, engine, nullptr);
#endif
  const Onednn<dnnl_primitive_t, dnnl_primitive_destroy> matmul(dnnl_primitive_create, plan);
  const dnnl_exec_arg_t arguments[] = {
      {DNNL_ARG_SRC, from_a}, {DNNL_ARG_WEIGHTS, from_b}, {DNNL_ARG_DST, to_c}};
  check_onednn(dnnl_primitive_execute(matmul, stream, 3, arguments));
  check_onednn(dnnl_stream_wait(stream));
}

/// C = alpha op(A) op(B) + beta C. A single column is sgemm's: matmul of version 3.7 stores it without its stride.
inline void onednn_gemm(bool transpose_a, bool transpose_b, index_t m, index_t n, index_t k,
                        float alpha, const float* a, index_t lda, const float* b, index_t ldb,
                        float beta, float* c, index_t ldc) {
  if (transpose_b && !transpose_a && n > 1)
    return onednn_matmul(m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  check_onednn(dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, alpha, a, lda,
                          b, ldb, beta, c, ldc));
}

}  // namespace srformer::SRF_DETAIL
#endif
