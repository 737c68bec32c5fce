// The functions of xprnn/activations.py with their slopes: each a type, its alpha and beta, and the bound of a clip,
// numbers in it, so that a kernel is compiled for them and looks nothing up.
//
// An activation has `value(x)` and `slope(y, x)` from y = value(x). Where it is `told` by its output, x is not looked at;
// else the slope is found when x is known, and kept. NaN stays NaN, and has the slope of large x.
#pragma once

typedef long long Bits;  // of a double: before C++20 no template takes the number itself; its sign is theirs

template <class F, Bits bits> __device__ F number() { return F(__longlong_as_double(bits)); }

template <class F> __device__ F sigmoid(F x) { return F(1) / (F(1) + exp(-x)); }
template <class F> __device__ F sigmoid_slope(F y) { return y * (F(1) - y); }
template <class F> __device__ F tanh_slope(F y) { return F(1) - y * y; }
template <class F> __device__ F clip(F x, F low, F high) { return x < low ? low : x > high ? high : x; }

struct Told {
  static constexpr bool told = true;
};

struct Tanh : Told {
  template <class F> static __device__ F value(F x) { return tanh(x); }
  template <class F> static __device__ F slope(F y, F) { return tanh_slope(y); }
};

struct Sigmoid : Told {
  template <class F> static __device__ F value(F x) { return sigmoid(x); }
  template <class F> static __device__ F slope(F y, F) { return sigmoid_slope(y); }
};

struct Relu : Told {
  template <class F> static __device__ F value(F x) { return x <= F(0) ? F(0) : x; }
  template <class F> static __device__ F slope(F y, F) { return y <= F(0) ? F(0) : F(1); }
};

template <Bits alpha> struct LeakyRelu {
  static constexpr bool told = alpha > 0;
  template <class F> static __device__ F value(F x) {
    const F slope = number<F, alpha>();
    return x <= F(0) ? (slope == F(0) ? F(0) : slope * x) : x;  // 0 times infinity is NaN
  }
  template <class F> static __device__ F slope(F y, F x) {
    return (told ? y : x) <= F(0) ? number<F, alpha>() : F(1);
  }
};

template <Bits alpha> struct ThresholdedRelu {
  static constexpr bool told = alpha >= 0;  // else 0 is above the threshold
  template <class F> static __device__ F value(F x) { return x <= number<F, alpha>() ? F(0) : x; }
  template <class F> static __device__ F slope(F y, F x) {
    return (told ? y == F(0) : x <= number<F, alpha>()) ? F(0) : F(1);
  }
};

template <Bits alpha> struct Elu {
  static constexpr bool told = alpha > 0;
  template <class F> static __device__ F value(F x) { return x <= F(0) ? number<F, alpha>() * expm1(x) : x; }
  template <class F> static __device__ F slope(F y, F x) {
    if ((told ? y : x) <= F(0)) return told ? y + number<F, alpha>() : number<F, alpha>() * exp(x);
    return F(1);
  }
};

struct Softsign : Told {
  template <class F> static __device__ F value(F x) {
    return isinf(x) ? copysign(F(1), x) : x / (F(1) + fabs(x));
  }
  template <class F> static __device__ F slope(F y, F) { return (F(1) - fabs(y)) * (F(1) - fabs(y)); }
};

struct Softplus : Told {
  template <class F> static __device__ F value(F x) { return Relu::value(x) + log1p(exp(-fabs(x))); }
  template <class F> static __device__ F slope(F y, F) { return -expm1(-y); }
};

template <Bits alpha, Bits beta> struct HardSigmoid : Told {
  template <class F> static __device__ F value(F x) {
    return clip(number<F, alpha>() * x + number<F, beta>(), F(0), F(1));
  }
  template <class F> static __device__ F slope(F y, F) { return y <= F(0) || y >= F(1) ? F(0) : number<F, alpha>(); }
};

template <Bits alpha, Bits beta> struct Affine : Told {
  template <class F> static __device__ F value(F x) { return number<F, alpha>() * x + number<F, beta>(); }
  template <class F> static __device__ F slope(F y, F) { return number<F, alpha>(); }
};

template <Bits alpha, Bits beta> struct ScaledTanh : Told {
  template <class F> static __device__ F value(F x) { return number<F, alpha>() * tanh(number<F, beta>() * x); }
  template <class F> static __device__ F slope(F y, F) {
    return number<F, beta>() * (number<F, alpha>() - y * (y / number<F, alpha>()));
  }
};

template <class Activation, Bits bound> struct Clipped {  // f(clip(x))
  static constexpr bool told = false;
  template <class F> static __device__ F value(F x) {
    return Activation::value(clip(x, -number<F, bound>(), number<F, bound>()));
  }
  template <class F> static __device__ F slope(F y, F x) {
    return fabs(x) > number<F, bound>() ? F(0) : Activation::slope(y, x);
  }
};

struct Free {  // of c: no bound
  template <class F> static __device__ F value(F c) { return c; }
  template <class F> static __device__ F slope(F c) { return F(1); }
};

template <Bits bound> struct Bounded {  // from c before its clip
  template <class F> static __device__ F value(F c) { return clip(c, -number<F, bound>(), number<F, bound>()); }
  template <class F> static __device__ F slope(F c) { return fabs(c) >= number<F, bound>() ? F(0) : F(1); }
};

// f(x) of a gate, put into k for the backward pass; behind it the slope where f(x) does not tell it.
template <class Activation, class F> __device__ F keep(F x, F *&k) {
  const F y = Activation::value(x);
  *k++ = y;
  if constexpr (!Activation::told) *k++ = Activation::slope(y, x);
  return y;
}

template <class F> struct Gate {
  F y, slope;
};

// The next gate of those that `keep` put there.
template <class Activation, class F> __device__ Gate<F> recall(const F *&k) {
  const F y = *k++;
  if constexpr (Activation::told) return {y, Activation::slope(y, F(0))};
  else return {y, *k++};
}
