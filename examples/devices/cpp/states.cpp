// Runs a stateful model on a stream in parts: the returned states are the next run's states.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

class Stream {
 public:
  Stream(Ort::Env& env, const char* file) : session_(env, file, Ort::SessionOptions{}) {
    // A file lists its tensors in this order: inputs, states; outputs, new states.
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 0; i < session_.GetInputCount(); ++i)
      inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
    for (size_t i = 0; i < session_.GetOutputCount(); ++i)
      outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
    Reset();
  }

  // Sets all states to zeros.
  void Reset() {
    states_.clear();
    Ort::AllocatorWithDefaultOptions allocator;
    for (size_t i = 1; i < inputs_.size(); ++i) {
      const auto shape = session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
      auto state = Ort::Value::CreateTensor<float>(allocator, shape.data(), shape.size());
      const size_t count = state.GetTensorTypeAndShapeInfo().GetElementCount();
      std::fill_n(state.GetTensorMutableData<float>(), count, 0.0f);
      states_.push_back(std::move(state));
    }
  }

  // Takes [1, time, features] and returns [1, time, outputs].
  std::vector<float> Run(std::vector<float> x, int64_t features) {
    const int64_t shape[] = {1, int64_t(x.size()) / features, features};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> values;
    values.push_back(Ort::Value::CreateTensor<float>(memory, x.data(), x.size(), shape, 3));
    for (auto& state : states_) values.push_back(std::move(state));
    const auto input_names = Pointers(inputs_), output_names = Pointers(outputs_);
    auto results = session_.Run(Ort::RunOptions{}, input_names.data(), values.data(),
                                values.size(), output_names.data(), output_names.size());
    states_.clear();
    for (size_t i = 1; i < results.size(); ++i) states_.push_back(std::move(results[i]));
    const float* y = results[0].GetTensorData<float>();
    return {y, y + results[0].GetTensorTypeAndShapeInfo().GetElementCount()};
  }

 private:
  static std::vector<const char*> Pointers(const std::vector<std::string>& names) {
    std::vector<const char*> found;
    for (const auto& name : names) found.push_back(name.c_str());
    return found;
  }

  Ort::Session session_;
  std::vector<std::string> inputs_, outputs_;
  std::vector<Ort::Value> states_;
};

int main(int, char** arguments) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "meter");
  Stream stream(env, arguments[1]);  // meter-edge/model.onnx
  const int64_t features = 3;
  for (int part = 0; part < 2; ++part) {
    std::vector<float> x(4 * features);
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(float(part * x.size() + i));
    for (float value : stream.Run(x, features)) std::printf("%.6f\n", value);
  }
}
