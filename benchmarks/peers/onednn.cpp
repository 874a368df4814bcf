// Layer norm of oneDNN behind a C interface, for onednn.py: primitives and memory objects are made beforehand, on the
// caller's buffers, so that a call is dnnl_primitive_execute alone.
#include <omp.h>

#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <dnnl.hpp>

namespace {

using dnnl::layer_normalization_backward;
using dnnl::layer_normalization_forward;
using dnnl::memory;
using dnnl::normalization_flags;

const normalization_flags SCALE_AND_SHIFT = normalization_flags::use_scale | normalization_flags::use_shift;

std::string last_error;

const dnnl::engine& cpu() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

layer_normalization_forward::primitive_desc describe_forward(dnnl::prop_kind kind, const memory::desc& rows,
                                                             float eps) {
#if DNNL_VERSION_MAJOR >= 3
  return {cpu(), kind, rows, rows, eps, SCALE_AND_SHIFT};
#else
  return {{kind, rows, eps, SCALE_AND_SHIFT}, cpu()};
#endif
}

layer_normalization_backward::primitive_desc describe_backward(
    const memory::desc& rows, float eps, const layer_normalization_forward::primitive_desc& forward) {
  const dnnl::prop_kind kind = dnnl::prop_kind::backward;
#if DNNL_VERSION_MAJOR >= 3
  return {cpu(), kind, rows, rows, rows, eps, SCALE_AND_SHIFT, forward};
#else
  return {{kind, rows, rows, eps, SCALE_AND_SHIFT}, cpu(), forward};
#endif
}

// A primitive with its arguments, which live as long as it does.
class Call {
 public:
  explicit Call(const dnnl::primitive& primitive) : primitive_(primitive), stream_(cpu()) {}

  void add(int name, const memory::desc& desc, float* data) {
    memories_.emplace_back(desc, cpu(), data);
    arguments_.push_back({name, memories_.back().get()});
  }

  dnnl_status_t execute() {
    const dnnl_status_t status =
        dnnl_primitive_execute(primitive_.get(), stream_.get(), static_cast<int>(arguments_.size()), arguments_.data());
    return status == dnnl_success ? dnnl_stream_wait(stream_.get()) : status;
  }

 private:
  dnnl::primitive primitive_;
  dnnl::stream stream_;
  std::vector<memory> memories_;
  std::vector<dnnl_exec_arg_t> arguments_;
};

// Called once to see that it works. Null, and an error to ask for, where making a call fails.
template <class Make>
Call* make_or_explain(Make make) {
  try {
    std::unique_ptr<Call> call(make());
    dnnl::error::wrap_c_api(call->execute(), "could not execute");
    return call.release();
  } catch (const std::exception& failure) {
    last_error = failure.what();
    return nullptr;
  }
}

memory::desc rows_of(long rows, long cols) { return {{rows, cols}, memory::data_type::f32, memory::format_tag::ab}; }

memory::desc vector_of(long size) { return {{size}, memory::data_type::f32, memory::format_tag::a}; }

}  // namespace

extern "C" {

// x, y: (rows, cols); weight, bias: (cols,)
Call* onednn_forward(long rows, long cols, float eps, float* x, float* weight, float* bias, float* y) {
  return make_or_explain([=] {
    const memory::desc array = rows_of(rows, cols);
    const memory::desc parameter = vector_of(cols);
    const auto desc = describe_forward(dnnl::prop_kind::forward_inference, array, eps);
    Call* call = new Call(layer_normalization_forward(desc));
    call->add(DNNL_ARG_SRC, array, x);
    call->add(DNNL_ARG_SCALE, parameter, weight);
    call->add(DNNL_ARG_SHIFT, parameter, bias);
    call->add(DNNL_ARG_DST, array, y);
    return call;
  });
}

// dy, x, dx: (rows, cols); mean, var: (rows,), the saved moments; weight, bias, dweight, dbias: (cols,)
Call* onednn_backward(long rows, long cols, float eps, float* dy, float* x, float* mean, float* var, float* weight,
                      float* bias, float* dx, float* dweight, float* dbias) {
  return make_or_explain([=] {
    const memory::desc array = rows_of(rows, cols);
    const memory::desc parameter = vector_of(cols);
    const memory::desc moment = vector_of(rows);
    const auto forward = describe_forward(dnnl::prop_kind::forward_training, array, eps);
    Call* call = new Call(layer_normalization_backward(describe_backward(array, eps, forward)));
    call->add(DNNL_ARG_DIFF_DST, array, dy);
    call->add(DNNL_ARG_SRC, array, x);
    call->add(DNNL_ARG_MEAN, moment, mean);
    call->add(DNNL_ARG_VARIANCE, moment, var);
    call->add(DNNL_ARG_SCALE, parameter, weight);
    call->add(DNNL_ARG_SHIFT, parameter, bias);  // it is asked for, though the gradients do not depend on it
    call->add(DNNL_ARG_DIFF_SRC, array, dx);
    call->add(DNNL_ARG_DIFF_SCALE, parameter, dweight);
    call->add(DNNL_ARG_DIFF_SHIFT, parameter, dbias);
    return call;
  });
}

void onednn_execute(Call* call) { call->execute(); }

void onednn_free(Call* call) { delete call; }

void onednn_set_threads(int threads) { omp_set_num_threads(threads); }

const char* onednn_error() { return last_error.c_str(); }

const char* onednn_version() {
  static const dnnl_version_t* const version = dnnl_version();
  static const std::string text =
      std::to_string(version->major) + "." + std::to_string(version->minor) + "." + std::to_string(version->patch);
  return text.c_str();
}
}
