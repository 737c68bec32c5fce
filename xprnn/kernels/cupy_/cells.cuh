// The equations of xprnn/cells/ for one unit of one row of a batch, and their slopes: written once, used by the
// stepwise and by the persistent kernels. Names, gate order and signs are the reference's, and so are the options: a cell
// is a type for each set of them, with the names of activations.cuh in it.
//
// A cell has `gates` G, `states` N (h first), `kept` numbers that its backward pass needs, `peepholes` numbers in P, and
// `phases` 1 or 2: GRU with its reset gate before the product runs one product for r and z, keeps `kept_first` numbers,
// and then, when r is known, one for n.
// `cut(p)` is the first gate of phase p of the forward pass, `cut(phases)` is G; the backward pass takes the phases in
// reverse. a is the input's share of the pre-activations, u the recurrent one with its bias, d the factor on the
// candidate, k what is kept, s what the cell makes, before what happens around it.
#pragma once
#include "activations.cuh"

template <class Activation> constexpr __device__ int kept_of() { return Activation::told ? 1 : 2; }

struct OnePhase {
  static constexpr int phases = 1, kept_first = 0;
};

template <class Activation = Tanh> struct Elman : OnePhase {
  static constexpr int gates = 1, states = 1, kept = 1, peepholes = 0;
  static constexpr __device__ int cut(int p) { return p; }

  template <class F>
  static __device__ void forward(const F *a, const F *u, const F *P, const F *prev, F d, F *s, F *k) {
    const F x = a[0] + u[0], y = Activation::value(x);
    s[0] = d * y;
    k[0] = Activation::told ? y : Activation::slope(y, x);
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *P, const F *prev, const F *s, F d, F *da, F *du,
                                  F *dprev) {
    da[0] = du[0] = ds[0] * d * (Activation::told ? Activation::slope(k[0], F(0)) : k[0]);
    dprev[0] = F(0);
  }
};

template <class Sigma = Sigmoid, class Phi = Tanh, class Psi = Tanh, bool with_peepholes = false, bool coupled = false,
          class Bound = Free>
struct LSTM : OnePhase {
  static constexpr int gates = coupled ? 3 : 4, states = 2, peepholes = with_peepholes ? gates - 1 : 0;
  static constexpr int kept = (gates - 1) * kept_of<Sigma>() + kept_of<Phi>();
  static constexpr int at_g = gates - 2, at_o = gates - 1, P_o = gates - 2;
  static constexpr __device__ int cut(int p) { return p * gates; }

  template <class F>
  static __device__ void forward(const F *a, const F *u, const F *P, const F *prev, F d, F *s, F *k) {
    F x_i = a[0] + u[0], x_f = a[1] + u[1], x_g = a[at_g] + u[at_g], x_o = a[at_o] + u[at_o];
    if constexpr (with_peepholes) x_i += P[0] * prev[1], x_f += P[1] * prev[1];
    const F i = keep<Sigma>(x_i, k), f = coupled ? F(1) - i : keep<Sigma>(x_f, k), g = keep<Phi>(x_g, k);
    const F c = Bound::value(f * prev[1] + i * (d * g));
    if constexpr (with_peepholes) x_o += P[P_o] * c;
    const F o = keep<Sigma>(x_o, k);
    s[0] = o * Psi::value(c);
    s[1] = c;
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *P, const F *prev, const F *s, F d, F *da, F *du,
                                  F *dprev) {
    const Gate<F> i = recall<Sigma>(k), f = coupled ? Gate<F>{F(1) - i.y, F(0)} : recall<Sigma>(k);
    const Gate<F> g = recall<Phi>(k), o = recall<Sigma>(k);
    const F c = s[1], psi_c = Psi::value(c), dh = ds[0];
    const F da_o = dh * psi_c * o.slope;
    F dc = ds[1] + dh * o.y * Psi::slope(psi_c, c);
    if constexpr (with_peepholes) dc += da_o * P[P_o];
    dc *= Bound::slope(f.y * prev[1] + i.y * (d * g.y));
    const F da_f = dc * prev[1] * f.slope;
    da[0] = du[0] = dc * (coupled ? d * g.y - prev[1] : d * g.y) * i.slope;
    if constexpr (!coupled) da[1] = du[1] = da_f;
    da[at_g] = du[at_g] = dc * (d * i.y) * g.slope;
    da[at_o] = du[at_o] = da_o;
    dprev[0] = F(0);
    dprev[1] = dc * f.y;
    if constexpr (with_peepholes) dprev[1] += da[0] * P[0] + (coupled ? F(0) : da_f * P[1]);
  }
};

template <class Sigma = Sigmoid, class Phi = Tanh> struct GRUAfter : OnePhase {  // n = φ(a_n + r u_n)
  static constexpr int gates = 3, states = 1, kept = 2 * kept_of<Sigma>() + kept_of<Phi>() + 1, peepholes = 0;
  static constexpr __device__ int cut(int p) { return p * gates; }

  template <class F>
  static __device__ void forward(const F *a, const F *u, const F *P, const F *prev, F d, F *s, F *k) {
    const F r = keep<Sigma>(a[0] + u[0], k), z = keep<Sigma>(a[1] + u[1], k), n = keep<Phi>(a[2] + r * u[2], k);
    s[0] = (F(1) - z) * (d * n) + z * prev[0];
    *k = u[2];
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *P, const F *prev, const F *s, F d, F *da, F *du,
                                  F *dprev) {
    const Gate<F> r = recall<Sigma>(k), z = recall<Sigma>(k), n = recall<Phi>(k);
    const F u_n = *k, dh = ds[0];
    da[2] = dh * (F(1) - z.y) * d * n.slope;
    da[1] = du[1] = dh * (prev[0] - d * n.y) * z.slope;
    da[0] = du[0] = da[2] * u_n * r.slope;
    du[2] = da[2] * r.y;
    dprev[0] = dh * z.y;
  }
};

template <class Sigma = Sigmoid, class Phi = Tanh> struct GRUBefore {  // n = φ(a_n + W_hn (r h) + b_hn)
  static constexpr int gates = 3, states = 1, kept_first = 2 * kept_of<Sigma>(), kept = kept_first + kept_of<Phi>();
  static constexpr int phases = 2, peepholes = 0;
  static constexpr __device__ int cut(int p) { return p + (p > 0); }

  // The first phase: r and z; returns r, by which h is multiplied before the second product.
  template <class F> static __device__ F forward_first(const F *a, const F *u, F *k) {
    const F r = keep<Sigma>(a[0] + u[0], k);
    keep<Sigma>(a[1] + u[1], k);
    return r;
  }
  template <class F>
  static __device__ void forward(const F *a, const F *u, const F *P, const F *prev, F d, F *s, F *k) {
    const F z = k[kept_of<Sigma>()];
    k += kept_first;
    const F n = keep<Phi>(a[2] + u[2], k);
    s[0] = (F(1) - z) * (d * n) + z * prev[0];
  }
  template <class F>
  static __device__ void backward(const F *ds, const F *k, const F *P, const F *prev, const F *s, F d, F *da, F *du,
                                  F *dprev) {
    k += kept_of<Sigma>();
    const Gate<F> z = recall<Sigma>(k), n = recall<Phi>(k);
    const F dh = ds[0];
    da[2] = du[2] = dh * (F(1) - z.y) * d * n.slope;
    da[1] = du[1] = dh * (prev[0] - d * n.y) * z.slope;
    dprev[0] = dh * z.y;
  }
  // After the first product, which gives drh, the gradient at r h: returns da_r and adds to dprev.
  template <class F> static __device__ F backward_first(F drh, const F *k, const F *prev, F *dprev) {
    const Gate<F> r = recall<Sigma>(k);
    dprev[0] += drh * r.y;
    return drh * prev[0] * r.slope;
  }
};
