// What one element (b, j), a unit of one row, does in a step: the cell and what happens around it (`Around` in
// xprnn/scan.py, with its equations), forward and backward. The kernels in stepwise.cu and persistent.cu bring
// the products and the order in time.
//
// `Forward` and `Backward` are passed to a kernel by value; passes.py writes their members, all of eight bytes, in this
// order. An array that is off is a null pointer. In a phase an element takes `sums(phase)` numbers from the product; for
// the next one it sends `sends(next phase)`: forward one, what W_hh sees, backward the gradients of that phase's gates.
#pragma once
#if defined(XPRNN_HALF) || !defined(XPRNN_ONE)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif
#include "cells.cuh"

typedef long long I;

template <class S> struct Compute { typedef float type; };  // half types are stored, and computed with as float
template <> struct Compute<double> { typedef double type; };

// Ask for a number that will be read a step later: from memory it takes longer than many a product.
template <class E> __device__ void prefetch(const E *p) {
#ifdef __CUDACC_RTC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

template <class S> struct View {  // (T, B, ·), any strides: flipped in time, or 0 where an axis broadcasts
  const S *start;
  I t_stride, b_stride, j_stride;
  __device__ bool on() const { return start != nullptr; }
  __device__ const S *at(I t, I b, I j) const { return start + t * t_stride + b * b_stride + j * j_stride; }
  __device__ S operator()(I t, I b, I j) const { return *at(t, b, j); }
};

template <class S> struct Around {
  View<bool> reset, mask;
  View<S> fresh[2], gate[2], noise[2], drop, inner;
};

template <class S, bool projected> struct Sequence {  // what both passes read
  typedef typename Compute<S>::type F;
  I T, B, H;
  I R;         // numbers of h: H unless h is `projected`
  const S *W;  // W_hh (G*H, R)
  const S *P;  // (peepholes*H,)
  Around<S> around;
  View<S> state0[2];
  S *states[2];  // (T, B, width)
  S *made[2];    // (T, B, width), the cell's candidates; null where they are the states
  S *kept;       // (T, B, kept*H); null where the candidate is all that is kept
  I kept_t;      // its stride in time: 0 where one step is scratch memory

  __device__ I width(int n) const { return projected && n == 0 ? R : H; }  // of state n
  __device__ I at(int n, I t, I b, I j) const { return (t * B + b) * width(n) + j; }
  __device__ S *kept_at(I t, I b, I j, int n) const { return kept + t * kept_t + b * n * H + j; }
  __device__ bool skips(I t, I b) const { return around.mask.on() && !around.mask(t, b, 0); }
  __device__ bool restarts(I t, I b) const { return around.reset.on() && around.reset(t, b, 0); }
  __device__ F fresh(int s, I b, I j) const { return around.fresh[s].on() ? F(around.fresh[s](0, b, j)) : F(0); }
  __device__ F drop(I t, I b, I j) const { return around.drop.on() ? F(around.drop(t, b, j)) : F(1); }
  __device__ F seen(F h, I b, I j) const { return around.inner.on() ? h * F(around.inner(0, b, j)) : h; }
  template <class Cell> __device__ void peepholes(I j, F *found) const {
    for (int n = 0; n < Cell::peepholes; ++n) found[n] = F(P[n * H + j]);
  }
};

template <class Cell_, class S_, bool projected = false> struct Forward : Sequence<S_, projected> {
  typedef Cell_ Cell;
  typedef S_ S;
  typedef typename Compute<S>::type F;
  static constexpr int N = Cell::states, G = Cell::gates, phases = Cell::phases;
  const S *bias;  // b_hh (G*H,)
  View<S> a;      // (T, B, G*H)
  F *now[2];      // (B, width): the running state

  static constexpr __device__ int first_gate(int phase) { return Cell::cut(phase); }
  static constexpr __device__ int last_gate(int phase) { return Cell::cut(phase + 1); }
  static constexpr __device__ int sums(int phase) { return last_gate(phase) - first_gate(phase); }
  static constexpr __device__ int sends(int phase) { return 1; }

  // Write into x what W_hh sees first.
  __device__ void begin(I b, I j, F *x) const { x[0] = begun(0, b, j, F(this->state0[0](0, b, j))); }

  // Ask for what step t + 1 reads.
  __device__ void prefetch_next(I t, I b, I j) const {
    if (t + 1 < this->T)
      for (int g = 0; g < G; ++g) prefetch(a.at(t + 1, b, g * this->H + j));
  }

  __device__ I elements(int phase) const { return this->H; }  // of a row

  // Run a phase of step t: `sum` holds W_hh x for its gates. Write into x what W_hh sees next.
  template <int phase> __device__ void step(I t, I b, I j, const F *sum, F *x) const {
    F prev[N], s[N];
    for (int n = 0; n < N; ++n) prev[n] = previous(n, t, b, j);
    make<phase>(t, b, j, sum, prev, s, x);
    if constexpr (phase + 1 == phases) {
      for (int n = 0; n < N; ++n) s[n] = around_step(n, t, b, j, s[n], prev[n]);
      x[0] = t + 1 < this->T ? begun(t + 1, b, j, s[0]) : F(0);
    }
  }

 protected:
  // Run the cell's part of a phase: the last makes s, others write into x.
  template <int phase> __device__ void make(I t, I b, I j, const F *sum, const F *prev, F *s, F *x) const {
    F a_t[G], u[G], P[G], k[Cell::kept];
    for (int g = first_gate(phase); g < last_gate(phase); ++g) {
      a_t[g] = F(a(t, b, g * this->H + j));
      u[g] = sum[g - first_gate(phase)] + (bias ? F(bias[g * this->H + j]) : F(0));
    }
    S *const kept = this->kept ? this->kept_at(t, b, j, Cell::kept) : nullptr;
    if constexpr (phase + 1 < Cell::phases) {
      x[0] = Cell::forward_first(a_t, u, k) * this->seen(prev[0], b, j);
      for (int i = 0; i < Cell::kept_first; ++i) kept[i * this->H] = S(k[i]);
    } else {
      for (int i = 0; i < Cell::kept_first; ++i) k[i] = F(kept[i * this->H]);
      this->template peepholes<Cell>(j, P);
      Cell::forward(a_t, u, P, prev, this->drop(t, b, j), s, k);
      if (kept)
        for (int i = Cell::kept_first; i < Cell::kept; ++i) kept[i * this->H] = S(k[i]);
    }
  }
  __device__ F begun(I t, I b, I j, F h) const {
    return this->seen(this->restarts(t, b) ? this->fresh(0, b, j) : h, b, j);
  }
  __device__ F previous(int n, I t, I b, I j) const {
    if (this->restarts(t, b)) return this->fresh(n, b, j);
    return t ? now[n][this->at(n, 0, b, j)] : F(this->state0[n](0, b, j));
  }
  __device__ F around_step(int n, I t, I b, I j, F made, F prev) const {
    F s = made;
    if (this->around.gate[n].on()) s = prev + F(this->around.gate[n](t, b, j)) * (made - prev);
    if (this->around.noise[n].on()) s += F(this->around.noise[n](t, b, j));
    if (this->skips(t, b)) s = prev;
    if (this->made[n]) this->made[n][this->at(n, t, b, j)] = S(made);
    this->states[n][this->at(n, t, b, j)] = S(s);
    now[n][this->at(n, 0, b, j)] = s;
    return s;
  }
};

template <class Cell_, class S_, bool projected = false> struct Backward : Sequence<S_, projected> {
  typedef Cell_ Cell;
  typedef S_ S;
  typedef typename Compute<S>::type F;
  static constexpr int N = Cell::states, G = Cell::gates, phases = Cell::phases;
  View<S> dstates[2], dfinal[2];
  S *da, *du;                 // (T, B, G*H): at a and at W_hh x; du is null where it is da
  S *dgate[2], *dnoise[2];    // (T, B, width)
  double *dfresh[2];          // (B, width): running sums over time
  F *carry[2];                // (B, width): the gradient at the state; in the end at state0

  static constexpr __device__ int first_gate(int phase) { return Cell::cut(phases - 1 - phase); }
  static constexpr __device__ int last_gate(int phase) { return Cell::cut(phases - phase); }
  static constexpr __device__ int sums(int phase) { return 1; }
  static constexpr __device__ int sends(int phase) { return last_gate(phase) - first_gate(phase); }

  // Begin at the last step. Write into x the gradients of the first phase's gates.
  __device__ void begin(I b, I j, F *x) const {
    F d[N];
    for (int n = 0; n < N; ++n) d[n] = last(n, b, j);
    open(this->T - 1, b, j, d, x);
  }

  // Ask for what step t - 1 reads beside what it finds at hand: step t opens it.
  __device__ void prefetch_next(I t, I b, I j) const {
    if (t < 2) return;
    if (this->kept)
      for (int i = 0; i < Cell::kept; ++i) prefetch(this->kept_at(t - 2, b, j, Cell::kept) + i * this->H);
    for (int n = 0; n < N; ++n) {
      prefetch(this->states[n] + this->at(n, t - 2, b, j));
      if (dstates[n].on()) prefetch(dstates[n].at(t - 2, b, j));
    }
  }

  __device__ I elements(int phase) const { return this->H; }  // of a row

  // Finish a phase of step t: `sum` is what its product gives at x. Write into x the gradients of the next phase's gates.
  template <int phase> __device__ void step(I t, I b, I j, const F *sum, F *x) const {
    F d[N];
    for (int n = 0; n < N; ++n) d[n] = carry[n][this->at(n, 0, b, j)];
    const F dx = this->seen(sum[0], b, j);
    if constexpr (phase + 1 < phases) {
      F k[Cell::kept], prev[N], made[N];
      for (int n = 0; n < N; ++n) load(n, t, b, j, prev[n], made[n]);
      load_kept(t, b, j, made, k);
      S *const da_t = da + (t * this->B + b) * G * this->H + j;
      x[0] = Cell::backward_first(dx, k, prev, d);
      x[1] = F(da_t[this->H]);
      da_t[0] = S(x[0]);
      carry[0][this->at(0, 0, b, j)] = d[0];
    } else {
      d[0] += dx;
      for (int n = 0; n < N; ++n) d[n] = cut(n, t, b, j, d[n]);
      if (t)
        open(t - 1, b, j, d, x);
      else
        for (int n = 0; n < N; ++n) carry[n][this->at(n, 0, b, j)] = d[n];
    }
  }

 protected:
  // The gradient at the final state.
  __device__ F last(int n, I b, I j) const {
    if (dfresh[n]) dfresh[n][this->at(n, 0, b, j)] = 0;
    return dfinal[n].on() ? F(dfinal[n](0, b, j)) : F(0);
  }
  // What of d, at what step t began from, goes to the step before.
  __device__ F cut(int n, I t, I b, I j, F d) const {
    if (!this->restarts(t, b)) return d;
    if (dfresh[n]) dfresh[n][this->at(n, 0, b, j)] += d;
    return F(0);
  }
  __device__ void load(int n, I t, I b, I j, F &prev, F &made) const {
    made = F((this->made[n] ? this->made[n] : this->states[n])[this->at(n, t, b, j)]);
    prev = this->restarts(t, b) ? this->fresh(n, b, j)
           : t                  ? F(this->states[n][this->at(n, t - 1, b, j)])
                                : F(this->state0[n](0, b, j));
  }
  __device__ void load_kept(I t, I b, I j, const F *made, F *k) const {
    if (this->kept) {
      const S *const kept = this->kept_at(t, b, j, Cell::kept);
      for (int i = 0; i < Cell::kept; ++i) k[i] = F(kept[i * this->H]);
    } else {
      k[0] = made[0];
    }
  }

  // Step t up to its first product: d is the gradient at the state that it hands on.
  __device__ void open(I t, I b, I j, F *d, F *x) const {
    F ds[N], dprev[N], prev[N], made[N];
    for (int n = 0; n < N; ++n) {
      load(n, t, b, j, prev[n], made[n]);
      ds[n] = around_open(n, t, b, j, prev[n], made[n], d[n]);
    }
    through(t, b, j, ds, prev, made, dprev, x);
    for (int n = 0; n < N; ++n) {
      add_past(n, t, b, d[n], ds[n], dprev[n]);
      carry[n][this->at(n, 0, b, j)] = dprev[n];
    }
  }
  // The gradient at what the cell makes of a state; to d the loss adds its own.
  __device__ F around_open(int n, I t, I b, I j, F prev, F made, F &d) const {
    const I at = this->at(n, t, b, j);
    if (dstates[n].on()) d += F(dstates[n](t, b, j));
    const F ds = this->skips(t, b) ? F(0) : d;
    if (dnoise[n]) dnoise[n][at] = S(ds);
    if (dgate[n]) dgate[n][at] = S(ds * (made - prev));
    return this->around.gate[n].on() ? ds * F(this->around.gate[n](t, b, j)) : ds;
  }
  // What goes past the cell.
  __device__ void add_past(int n, I t, I b, F d, F ds, F &dprev) const {
    if (this->skips(t, b))
      dprev += d;
    else if (this->around.gate[n].on())
      dprev += d - ds;  // (1 - g) d
  }
  // What goes through the cell. Write into x the gradients of the first phase's gates.
  __device__ void through(I t, I b, I j, const F *ds, const F *prev, const F *made, F *dprev, F *x) const {
    F da_t[G], du_t[G], k[Cell::kept], P[G];
    load_kept(t, b, j, made, k);
    this->template peepholes<Cell>(j, P);
    Cell::backward(ds, k, P, prev, made, this->drop(t, b, j), da_t, du_t, dprev);
    for (int g = phases == 2 ? 1 : 0; g < G; ++g) {
      const I at = (t * this->B + b) * G * this->H + g * this->H + j;
      da[at] = S(da_t[g]);
      if (du) du[at] = S(du_t[g]);
    }
    for (int g = first_gate(0); g < last_gate(0); ++g) x[g - first_gate(0)] = du_t[g];
  }
};
