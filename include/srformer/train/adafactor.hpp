// SPDX-License-Identifier: Apache-2.0
// Adafactor, as transformers.optimization.Adafactor after clip_grad_norm_. For a parameter of n elements, in update t:
//
//   b2 = 1 - t^decay_rate
//   v = b2 v + (1 - b2) (g^2 + eps1),   u = g / sqrt(v)                          vectors and numbers
//   r_i = b2 r_i + (1 - b2) mean_j (g_ij^2 + eps1)                               matrices: rows
//   c_j = b2 c_j + (1 - b2) mean_i (g_ij^2 + eps1)                               and columns
//   u_ij = g_ij / (sqrt(r_i / mean(r)) sqrt(c_j))
//   lr = rate scale,   scale = scale_parameter ? max(eps2, rms(p)) : 1
//   rate = relative_step ? min(warmup_init ? 1e-6 t : 1e-2, 1 / sqrt(t)) : that of the schedule
//   u = lr u / max(1, rms(u) / clip_threshold),   with beta1 m = beta1 m + (1 - beta1) u and u = m
//   p = (1 - lr wd) p - u
//
// A tensor of more than two axes is as many matrices as its first axes have places. Of a matrix r and c are kept alone.
// Source: Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", ICML 2018.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <srformer/train/optimizer.hpp>

namespace srformer {

template <class B, class T>
requires BackendFor<B, T>
class Adafactor;

/// As the Trainer of transformers sets them for --optim adafactor; the class there has scale_parameter and
/// relative_step on unless told otherwise.
struct AdafactorOptions {
  template <class B, class T>
  using For = Adafactor<B, T>;

  double epsilon1 = 1e-30;  ///< added to squares of the gradient
  double epsilon2 = 1e-3;   ///< the least scale of a parameter
  double clip_threshold = 1;
  double decay_rate = -0.8;
  std::optional<double> beta1{};  ///< nothing: no first moment
  bool scale_parameter = false;
  bool relative_step = false;  ///< the learning rate of update() does not count
  bool warmup_init = false;    ///< for relative_step
  double weight_decay = 0;
  std::vector<Role> decayed{Role::weight,
                            Role::embedding};  ///< transformers' class decays all_roles()
  double max_grad_norm = 0;                    ///< 0: no clipping
  /// Whether a share must be of whole parameters: an update needs sums over all of one.
  static constexpr bool whole_parameters = true;

  /// Calls f(name, member) for its own numbers; decay and clipping are those of every optimizer.
  static void visit(auto& o, auto&& f) {
    f("scale_parameter", o.scale_parameter), f("relative_step", o.relative_step);
    f("warmup_init", o.warmup_init), f("clip_threshold", o.clip_threshold);
    f("decay_rate", o.decay_rate), f("beta1", o.beta1);
    f("epsilon1", o.epsilon1), f("epsilon2", o.epsilon2);
  }

  /// Throws shape_error for options that make no sense.
  void check() const {
    require(epsilon1 > 0 && epsilon2 >= 0, "Adafactor",
            "epsilon1 must be above 0 and epsilon2 must not be negative");
    require(clip_threshold > 0, "Adafactor", "clip_threshold must be above 0");
    require(decay_rate <= 0, "Adafactor", "decay_rate must not be above 0");
    require(!beta1 || (*beta1 >= 0 && *beta1 < 1), "Adafactor", "beta1 must be in [0,1)");
    require(relative_step || !warmup_init, "Adafactor", "warmup_init needs relative_step");
    detail::check_optimizer_options("Adafactor", *this);
  }
};

namespace SRF_DETAIL {

/// One parameter. Where `factored` it is [matrices, rows, columns], else [1, count, 1].
struct AdafactorItem {
  index_t offset, count, matrices, rows, columns;
  index_t row, column;        // of its first sum of rows, of columns
  index_t second;             // of its first second moment, where it is not factored
  index_t first;              // of its first moments
  index_t matrix;             // of its first matrix, among all that are factored
  index_t first_task, tasks;  // the same for its tasks
  bool factored, decays;
};

/// Some rows of one matrix; of a vector, some elements.
struct AdafactorTask {
  index_t item, matrix, first, count;
  index_t partial;  // where its sums of columns begin
};

/// One matrix that is factored, and where the sums of columns of its tasks begin.
struct AdafactorMatrix {
  index_t item, matrix, partial, blocks;
};

/// All that the functors read and write, in the backend's memory.
template <class T>
struct AdafactorMemory {
  using C = compute_t<T>;
  using A = accumulate_t<T>;
  const AdafactorItem* items;
  const AdafactorTask* tasks;
  const AdafactorMatrix* matrices;
  T* value;
  const T* gradient;
  const C* factor;
  C *first, *second, *row, *column;   // the state; first is null without beta1
  C *partial, *root, *mean;           // sums of columns by task, 1 / sqrt(c), mean(r) by matrix
  A *value_squares, *update_squares;  // by task
  C *step, *keep;                     // by item: what u and p are multiplied by
  bool scales;                        // whether value_squares is wanted
};

/// Sums of rows into the state, sums of columns of each task aside; the second moment of vectors.
template <class T>
struct AdafactorSums {
  using C = compute_t<T>;
  using A = accumulate_t<T>;
  AdafactorMemory<T> at;
  C beta2, one_minus_beta2, epsilon;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t t, void*) const {
    const C c = *at.factor;
    if (!math::finite(c)) return;
    const AdafactorTask task = at.tasks[t];
    const AdafactorItem item = at.items[task.item];
    const index_t start = item.offset + (task.matrix * item.rows + task.first) * item.columns;
    if (at.scales) {
      const T* p = at.value + start;
      const A squares = team.template sum<A>(task.count * item.columns, [=](index_t i) {
        const A x = A(C(p[i]));
        return x * x;
      });
      if (team.leader()) at.value_squares[t] = squares;
    }
    const C keep = beta2, add = one_minus_beta2, eps = epsilon;
    const T* g = at.gradient + start;
    if (!item.factored) {
      C* v = at.second + item.second + task.first;
      team.for_each(task.count, [=](index_t i) {
        const C x = c * C(g[i]);
        v[i] = keep * v[i] + add * (x * x + eps);
      });
      return;
    }
    const index_t n = item.columns;
    C* r = at.row + item.row + task.matrix * item.rows + task.first;
    C* partial = at.partial + task.partial;
    team.for_each(n, [=](index_t j) { partial[j] = C(0); });
    for (index_t i = 0; i < task.count; ++i) {
      const T* g_i = g + i * n;
      const A squares = team.template sum<A>(n, [=](index_t j) {
        const C x = c * C(g_i[j]);
        return A(x * x);
      });
      if (team.leader()) r[i] = keep * r[i] + add * (C(squares / A(static_cast<double>(n))) + eps);
      team.for_each(n, [=](index_t j) {
        const C x = c * C(g_i[j]);
        partial[j] = partial[j] + x * x;
      });
    }
  }
};

/// Sums of columns into the state, and what updates take of a matrix: 1 / sqrt(c) and mean(r).
template <class T>
struct AdafactorFactors {
  using C = compute_t<T>;
  using A = accumulate_t<T>;
  AdafactorMemory<T> at;
  C beta2, one_minus_beta2, epsilon;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t m, void*) const {
    if (!math::finite(*at.factor)) return;
    const AdafactorMatrix of = at.matrices[m];
    const AdafactorItem item = at.items[of.item];
    const index_t n = item.columns;
    const A rows = A(static_cast<double>(item.rows));
    const C* partial = at.partial + of.partial;
    C* c = at.column + item.column + of.matrix * n;
    C* root = at.root + item.column + of.matrix * n;
    const C keep = beta2, add = one_minus_beta2, eps = epsilon;
    team.for_each(n, [=](index_t j) {
      A squares(0);
      for (index_t b = 0; b < of.blocks; ++b) squares = squares + A(partial[b * n + j]);
      c[j] = keep * c[j] + add * (C(squares / rows) + eps);
      root[j] = C(1) / math::sqrt(c[j]);
    });
    const C* r = at.row + item.row + of.matrix * item.rows;
    const A total = team.template sum<A>(item.rows, [=](index_t i) { return A(r[i]); });
    if (team.leader()) at.mean[m] = C(total / rows);
  }
};

/// The sum of the squares of u, by task.
template <class T>
struct AdafactorUpdateSquares {
  using C = compute_t<T>;
  using A = accumulate_t<T>;
  AdafactorMemory<T> at;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t t, void*) const {
    const C c = *at.factor;
    if (!math::finite(c)) return;
    const AdafactorTask task = at.tasks[t];
    const AdafactorItem item = at.items[task.item];
    const T* g = at.gradient + item.offset + (task.matrix * item.rows + task.first) * item.columns;
    A squares(0);
    if (!item.factored) {
      const C* v = at.second + item.second + task.first;
      squares = team.template sum<A>(task.count, [=](index_t i) {
        const A u = A(c * C(g[i]) / nonnegative_root(v[i]));
        return u * u;
      });
    } else {
      const index_t n = item.columns;
      const C* r = at.row + item.row + task.matrix * item.rows + task.first;
      const C* root = at.root + item.column + task.matrix * n;
      const C mean = at.mean[item.matrix + task.matrix];
      for (index_t i = 0; i < task.count; ++i) {
        const T* g_i = g + i * n;
        const C of_row = c / math::sqrt(r[i] / mean);
        squares = squares + team.template sum<A>(n, [=](index_t j) {
          const A u = A(of_row * root[j] * C(g_i[j]));
          return u * u;
        });
      }
    }
    if (team.leader()) at.update_squares[t] = squares;
  }
};

/// What u and the value of a parameter are multiplied by.
template <class T>
struct AdafactorSteps {
  using C = compute_t<T>;
  using A = accumulate_t<T>;
  AdafactorMemory<T> at;
  double rate, clip_threshold, least_scale, weight_decay;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t k, void*) const {
    if (!math::finite(*at.factor)) return;
    const AdafactorItem item = at.items[k];
    const auto mean_of = [&](const A* squares) {
      const A* of_item = squares + item.first_task;
      const A sum = team.template sum<A>(item.tasks, [=](index_t i) { return of_item[i]; });
      return math::sqrt(sum / A(static_cast<double>(item.count)));
    };
    const A excess = mean_of(at.update_squares) / A(clip_threshold);
    A lr = A(rate);
    if (at.scales) {
      const A size = mean_of(at.value_squares);
      lr = lr * (primal(size) < least_scale ? A(least_scale) : size);
    }
    if (!team.leader()) return;
    at.step[k] = C(primal(excess) > 1 ? lr / excess : lr);
    at.keep[k] = C(item.decays ? A(1) - lr * A(weight_decay) : A(1));
  }
};

/// The update of the values, through the first moment where there is one.
template <class T>
struct AdafactorUpdate {
  using C = compute_t<T>;
  AdafactorMemory<T> at;
  C beta1, one_minus_beta1;

  template <class Team>
  SRF_HD void operator()(const Team& team, index_t t, void*) const {
    const C c = *at.factor;
    if (!math::finite(c)) return;
    const AdafactorTask task = at.tasks[t];
    const AdafactorItem item = at.items[task.item];
    const index_t start = item.offset + (task.matrix * item.rows + task.first) * item.columns;
    const T* g = at.gradient + start;
    const C step = at.step[task.item];
    C* moment = at.first == nullptr ? nullptr : at.first + item.first + (start - item.offset);
    if (!item.factored) {
      const C* v = at.second + item.second + task.first;
      apply(team, task.count, at.value + start, moment, at.keep[task.item],
            [=](index_t i) { return step * (c * C(g[i]) / nonnegative_root(v[i])); });
      return;
    }
    const index_t n = item.columns;
    const C* r = at.row + item.row + task.matrix * item.rows + task.first;
    const C* root = at.root + item.column + task.matrix * n;
    const C mean = at.mean[item.matrix + task.matrix];
    for (index_t i = 0; i < task.count; ++i) {
      const T* g_i = g + i * n;
      const C of_row = c / math::sqrt(r[i] / mean);
      apply(team, n, at.value + start + i * n, moment == nullptr ? nullptr : moment + i * n,
            at.keep[task.item], [=](index_t j) { return step * (of_row * root[j] * C(g_i[j])); });
    }
  }

 private:
  template <class Team, class F>
  SRF_HD void apply(const Team& team, index_t n, T* p, C* m, C keep, F update) const {
    if (m == nullptr) {
      team.for_each(n, [=](index_t i) { p[i] = T(keep * C(p[i]) - update(i)); });
      return;
    }
    const C old = beta1, add = one_minus_beta1;
    team.for_each(n, [=](index_t i) {
      const C m_i = old * m[i] + add * update(i);
      m[i] = m_i;
      p[i] = T(keep * C(p[i]) - m_i);
    });
  }
};

/// How the parameters of a model are divided into tasks, and the sizes of what is kept.
struct AdafactorPlan {
  static constexpr index_t task_elements = 32768, least_rows = 16;
  std::vector<AdafactorItem> items;
  std::vector<AdafactorTask> tasks;
  std::vector<AdafactorMatrix> matrices;
  index_t rows = 0, columns = 0, vectors = 0, partial = 0, elements = 0;

  void add(const std::vector<index_t>& shape, index_t offset, index_t count, bool decays) {
    if (count == 0) return;
    AdafactorItem item{.offset = offset,
                       .count = count,
                       .matrices = 1,
                       .rows = count,
                       .columns = 1,
                       .row = rows,
                       .column = columns,
                       .second = vectors,
                       .first = elements,
                       .matrix = std::ssize(matrices),
                       .first_task = std::ssize(tasks),
                       .tasks = 0,
                       .factored = shape.size() >= 2,
                       .decays = decays};
    if (item.factored) {
      item.rows = shape[shape.size() - 2], item.columns = shape.back();
      item.matrices = count / (item.rows * item.columns);
      rows += item.matrices * item.rows, columns += item.matrices * item.columns;
    } else {
      vectors += count;
    }
    const index_t most = std::max(least_rows, task_elements / item.columns);
    const index_t blocks = (item.rows + most - 1) / most;
    for (index_t m = 0; m < item.matrices; ++m) {
      if (item.factored) matrices.push_back({std::ssize(items), m, partial, blocks});
      for (index_t first = 0; first < item.rows; first += most) {
        tasks.push_back({std::ssize(items), m, first, std::min(most, item.rows - first), partial});
        if (item.factored) partial += item.columns;
      }
    }
    item.tasks = std::ssize(tasks) - item.first_task;
    elements += count;
    items.push_back(item);
  }
};

/// A copy of `values` in the backend's memory.
template <class X, class B>
Tensor<B, X, 1> on_backend(B& be, const std::vector<X>& values) {
  return from_host<X, 1>(be, {std::ssize(values)}, values);
}

}  // namespace SRF_DETAIL

/// The second moments of Adafactor for the parameters of one model, which keep their order: of a matrix [R,C] the R + C
/// sums of its rows and columns, of other parameters one number for each element, and with beta1 one number for each
/// element beside. In compute_t<T>. An update works in memory of one row for each 16 rows of a matrix or fewer (64 where a row has 512
/// elements), at least one for each matrix. A share of the parameters consists of whole ones.
template <class B, class T>
requires BackendFor<B, T>
class Adafactor {
  using C = compute_t<T>;
  using A = accumulate_t<T>;

 public:
  Adafactor(B& be, const Parameters<B, T>& parameters, AdafactorOptions options)
      : Adafactor(be, parameters, std::move(options),
                  std::vector<ArrayRange>{{0, parameters.size()}}) {}
  Adafactor(B& be, const Parameters<B, T>& parameters, AdafactorOptions options,
            std::vector<ArrayRange> share)
      : options_(std::move(options)),
        size_(parameters.size()),
        share_(std::move(share)),
        clip_(be) {
    options_.check();
    for (const auto& p : parameters)
      if (owns(p))
        plan_.add(p.shape, p.offset, p.count, detail::has_role(options_.decayed, p.role));
    items_ = detail::on_backend(be, plan_.items), tasks_ = detail::on_backend(be, plan_.tasks);
    matrices_ = detail::on_backend(be, plan_.matrices);
    const auto numbers = [&](index_t count) { return zeros<C, 1>(be, {count}); };
    row_ = numbers(plan_.rows), column_ = numbers(plan_.columns);
    second_ = numbers(plan_.vectors);
    if (options_.beta1) first_ = numbers(plan_.elements);
  }

  std::string_view name() const { return "adafactor"; }

  /// The rate of update `number` before it is scaled by the size of a parameter.
  double rate(double learning_rate, index_t number) const {
    if (!options_.relative_step) return learning_rate;
    const auto t = static_cast<double>(number);
    return std::min(options_.warmup_init ? 1e-6 * t : 1e-2, 1 / std::sqrt(t));
  }

  /// Clips the gradients and makes update `number` = 1, 2, ... of all parameters; does nothing when the norm is not
  /// finite. The gradients stay as they are. Reads them four times and the values once or twice. Does not wait. Throws
  /// shape_error for parameters of another size.
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    detail::check_update("Adafactor::update", parameters.size(), size_, number);
    clip_.measure(be, parameters.gradients().data, size_, options_.max_grad_norm);
    apply(be, parameters, learning_rate, number);
  }

  /// The same for the share, where the sum of the squares of all gradients is known.
  void update(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number,
              const accumulate_t<T>* squares) {
    detail::check_update("Adafactor::update", parameters.size(), size_, number);
    clip_.take(be, squares, options_.max_grad_norm);
    apply(be, parameters, learning_rate, number);
  }

  /// The norm of the gradients of the last update, before clipping; waits for it.
  double gradient_norm(B& be) const { return clip_.norm(be); }

  /// exp_avg_sq_row/PARAMETER and exp_avg_sq_col/PARAMETER of matrices, exp_avg_sq/PARAMETER of others, and with beta1
  /// exp_avg/PARAMETER.
  template <class F>
  void visit_state(const Parameters<B, T>& parameters, F f) {
    visit_share(parameters, detail::whole_tensors("Adafactor::visit_state",
                                                  detail::share_size(share_) == size_, f));
  }
  template <class F>
  void visit_share(const Parameters<B, T>& parameters, F f) {
    auto item = plan_.items.begin();
    const detail::AdafactorItem none{};
    for (const auto& p : parameters) {
      if (p.count == 0) continue;
      const bool here = owns(p);
      const detail::AdafactorItem& of = here ? *item++ : none;
      if (p.shape.size() < 2) {
        f("exp_avg_sq/" + p.name, p.shape, index_t{0}, second_.data() + of.second, of.count);
        continue;
      }
      std::vector<index_t> rows(p.shape.begin(), p.shape.end() - 1), columns(rows);
      columns.back() = p.shape.back();
      f("exp_avg_sq_row/" + p.name, rows, index_t{0}, row_.data() + of.row, of.matrices * of.rows);
      f("exp_avg_sq_col/" + p.name, columns, index_t{0}, column_.data() + of.column,
        of.matrices * of.columns);
    }
    if (options_.beta1)
      detail::visit_like_parameters(parameters, share_, "exp_avg", first_.data(), f);
  }

 private:
  /// Whether the share has the parameter, and throws where it has a part of it.
  bool owns(const Parameter<B, T>& p) const {
    index_t count = 0;
    detail::for_each_part(share_, {p.offset, p.count},
                          [&](const ArrayRange& part, index_t) { count += part.count; });
    require(count == 0 || count == p.count, "Adafactor",
            "the share has a part of \"" + p.name + "\", of which it needs all or nothing");
    return count > 0;
  }

  void apply(B& be, Parameters<B, T>& parameters, double learning_rate, index_t number) {
    const index_t items = items_.size(), tasks = tasks_.size(), matrices = matrices_.size();
    Tensor<B, C, 1> partial(be, {plan_.partial}), root(be, {plan_.columns}), mean(be, {matrices});
    Tensor<B, A, 1> value_squares(be, {tasks}), update_squares(be, {tasks});
    Tensor<B, C, 1> step(be, {items}), keep(be, {items});
    const detail::AdafactorMemory<T> at{items_.data(),
                                        tasks_.data(),
                                        matrices_.data(),
                                        parameters.values().data,
                                        parameters.gradients().data,
                                        clip_.factor(),
                                        first_.empty() ? nullptr : first_.data(),
                                        second_.data(),
                                        row_.data(),
                                        column_.data(),
                                        partial.data(),
                                        root.data(),
                                        mean.data(),
                                        value_squares.data(),
                                        update_squares.data(),
                                        step.data(),
                                        keep.data(),
                                        options_.scale_parameter};
    const double fresh = std::pow(static_cast<double>(number), options_.decay_rate);  // 1 - b2
    const C beta2 = C(1 - fresh), one_minus_beta2 = C(fresh), epsilon = C(options_.epsilon1);
    be.for_each_row(tasks, 0, detail::AdafactorSums<T>{at, beta2, one_minus_beta2, epsilon});
    be.for_each_row(matrices, 0, detail::AdafactorFactors<T>{at, beta2, one_minus_beta2, epsilon});
    be.for_each_row(tasks, 0, detail::AdafactorUpdateSquares<T>{at});
    be.for_each_row(
        items, 0,
        detail::AdafactorSteps<T>{at, rate(learning_rate, number), options_.clip_threshold,
                                  options_.epsilon2, options_.weight_decay});
    const double beta1 = options_.beta1.value_or(0);
    be.for_each_row(tasks, 0, detail::AdafactorUpdate<T>{at, C(beta1), C(1 - beta1)});
  }

  AdafactorOptions options_;
  index_t size_;
  std::vector<ArrayRange> share_;
  detail::AdafactorPlan plan_;
  Tensor<B, detail::AdafactorItem, 1> items_;
  Tensor<B, detail::AdafactorTask, 1> tasks_;
  Tensor<B, detail::AdafactorMatrix, 1> matrices_;
  Tensor<B, C, 1> row_, column_, second_, first_;
  GradientClip<B, T> clip_;
};

}  // namespace srformer
