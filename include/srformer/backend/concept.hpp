// SPDX-License-Identifier: Apache-2.0
// What a backend is. The backend object comes first in every call; it holds threads or a stream,
// handles and recycled memory, and there is no other state. Nine primitives:
//
//   space                     host_space or cuda_space: where its memory is
//   allocate<T>(n)            memory for n elements, uninitialised for built-in T; never null
//   deallocate(p, n)          gives it back, usually to be handed out again
//   fill(p, n, value)         n elements
//   copy(to, from, n)         n elements within this backend's memory, converting the type
//   to_host                   the same to the host; it waits until all is there
//   from_host                 the same from the host; it returns when the host memory was read
//   for_each(n, f)            f(i), independent, f trivially copyable
//   for_each_row(rows, scratch, f)   f(team, row, p): see backend/team.hpp; p is `scratch` bytes of
//                             the team's own, aligned to 64, shared by no two teams at work
//   reduce(n, f, out)         *out += sum of f(i), in an order that n alone decides
//   gemm(...)                 C = alpha op(A) op(B) + beta C, row-major, BLAS meaning
//   synchronize()             waits for all of the above
//
// Two more are optional, for backends of many teams, as a device is:
//
//   many_teams                static constexpr bool, true: loops over rows are cut finer
//   gemm_batched(..., count, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)   `count` such products, where
//                             a(i), b(i) and c(i) say where the matrices of product i are
#pragma once

#include <srformer/backend/team.hpp>
#include <srformer/core/view.hpp>

namespace srformer {

namespace detail {
struct IndexFunctor {
  SRF_HD void operator()(index_t) const {}
};
template <class A>
struct ValueFunctor {
  SRF_HD A operator()(index_t) const { return A(0); }
};
struct RowFunctor {
  template <class Team>
  SRF_HD void operator()(const Team&, index_t, void*) const {}
};
}  // namespace detail

/// The primitives above, for elements of type T. The comments are for whoever lacks one: compilers
/// print the line of a requirement that is not met.
template <class B, class T>
concept HasPrimitives = requires(B& be, T* p, const T* from, accumulate_t<T>* sum, index_t n, T x,
                                 compute_t<T> c) {
  typename B::space;  // a backend says where its memory is: using space = srformer::host_space
  { be.template allocate<T>(n) } -> std::same_as<T*>;  // a backend needs allocate<T>(n) -> T*
  be.deallocate(p, n);                                 // a backend needs deallocate(p, n)
  be.fill(p, n, x);                                    // a backend needs fill(p, n, value)
  be.copy(p, from, n);                                 // a backend needs copy(to, from, n)
  be.to_host(p, from, n);                              // a backend needs to_host(host, p, n)
  be.from_host(p, from, n);                            // a backend needs from_host(p, host, n)
  be.for_each(n, detail::IndexFunctor{});              // a backend needs for_each(n, f)
  be.for_each_row(n, n, detail::RowFunctor{});  // a backend needs for_each_row(rows, scratch, f)
  be.reduce(n, detail::ValueFunctor<accumulate_t<T>>{}, sum);  // a backend needs reduce(n, f, out)
  be.gemm(Op::none, Op::transpose, n, n, n, c, from, n, from, n, c, p, n);  // a backend needs gemm
  be.synchronize();  // a backend needs synchronize()
};

/// A backend: shown with double, which all of them hold.
template <class B>
concept Backend = HasPrimitives<B, double>;

namespace detail {
template <class P>
struct PointerFunctor {
  SRF_HD P operator()(index_t) const { return nullptr; }
};
}  // namespace detail

/// Whether a backend multiplies batches of matrices itself. Attention then goes through products over all
/// heads (attention/detail/full_batched.hpp and its neighbours) instead of one team for each.
template <class B>
concept HasBatchedGemm = requires(B& be, index_t n, detail::PointerFunctor<const double*> from,
                                  detail::PointerFunctor<double*> to) {
  be.gemm_batched(Op::none, Op::transpose, n, n, n, n, 1.0, from, n, from, n, 0.0, to, n);
};

/// Whether a backend runs many teams at once, as a device does: loops over rows are cut finer for it.
template <class B>
concept ManyTeams = requires {
  requires B::many_teams;
};

namespace detail {
template <class B, class T>
concept HoldsScalar = std::is_same_v<typename B::space, host_space> ||
    scalar_traits<T>::on_device;  // a device cannot hold this scalar: see scalar_traits::on_device
}  // namespace detail

/// A backend that can hold and compute T. A device refuses scalars it cannot hold.
template <class B, class T>
concept BackendFor = Backend<B> && Scalar<T> && detail::HoldsScalar<B, T> && HasPrimitives<B, T>;

}  // namespace srformer
