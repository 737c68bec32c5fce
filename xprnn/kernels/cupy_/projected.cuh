// What one element does in a step of an LSTM whose h is projected, h = W_hr m: with two products in a step, one by W_hh
// and one by W_hr. Around the cell's own H elements are those of c; the R of h come after W_hr forward, before it backward.
#pragma once
#include "element.cuh"

template <class Cell_, class S_> struct ProjectedForward : Forward<Cell_, S_, true> {
  typedef Forward<Cell_, S_, true> Base;
  typedef typename Base::F F;
  static constexpr int phases = 2;

  static constexpr __device__ int sums(int phase) { return phase ? 1 : Base::G; }
  __device__ I elements(int phase) const { return phase ? this->R : this->H; }

  // Phase 0 has W_hh x and writes m into x; phase 1 has W_hr m and writes what W_hh sees next.
  template <int phase> __device__ void step(I t, I b, I j, const F *sum, F *x) const {
    const int n = phase ? 0 : 1;
    F prev[2] = {F(0), F(0)}, s[2];
    prev[n] = this->previous(n, t, b, j);
    if constexpr (phase == 0)
      this->template make<0>(t, b, j, sum, prev, s, x);
    else
      s[0] = sum[0];
    x[0] = s[0];
    const F state = this->around_step(n, t, b, j, s[n], prev[n]);
    if (phase) x[0] = t + 1 < this->T ? this->begun(t + 1, b, j, state) : F(0);
  }
};

template <class Cell_, class S_> struct ProjectedBackward : Backward<Cell_, S_, true> {
  typedef Backward<Cell_, S_, true> Base;
  typedef typename Base::F F;
  static constexpr int phases = 2;

  __device__ I elements(int phase) const { return phase ? this->R : this->H; }

  // Begin at the last step. Write into x the gradient at what W_hr gives.
  __device__ void begin(I b, I j, F *x) const { open_h(this->T - 1, b, j, this->last(0, b, j), x); }

  // Phase 0 has the gradient at m and leaves da; phase 1 has that at x and writes the gradient at what W_hr gives.
  template <int phase> __device__ void step(I t, I b, I j, const F *sum, F *x) const {
    if constexpr (phase == 0) {
      step_c(t, b, j, sum[0], x);
    } else {
      const F d = this->cut(0, t, b, j, this->carry[0][this->at(0, 0, b, j)] + this->seen(sum[0], b, j));
      if (t)
        open_h(t - 1, b, j, d, x);
      else
        this->carry[0][this->at(0, 0, b, j)] = d;
    }
  }

 private:
  __device__ void step_c(I t, I b, I j, F dm, F *x) const {
    F &carry = this->carry[1][this->at(1, 0, b, j)];
    F d = t + 1 < this->T ? carry : this->last(1, b, j), prev[2] = {F(0), F(0)}, made[2] = {F(0), F(0)}, dprev[2];
    this->load(1, t, b, j, prev[1], made[1]);
    const F ds[2] = {dm, this->around_open(1, t, b, j, prev[1], made[1], d)};
    this->through(t, b, j, ds, prev, made, dprev, x);
    this->add_past(1, t, b, d, ds[1], dprev[1]);
    carry = this->cut(1, t, b, j, dprev[1]);
  }
  __device__ void open_h(I t, I b, I j, F d, F *x) const {
    F prev, made, dprev = F(0);
    this->load(0, t, b, j, prev, made);
    x[0] = this->around_open(0, t, b, j, prev, made, d);
    this->add_past(0, t, b, d, x[0], dprev);
    this->carry[0][this->at(0, 0, b, j)] = dprev;
  }
};
