// Classifies two sequences of different lengths in one run, padded as manifest.json allows.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

constexpr int64_t kFeatures = 12;  // inputs[0].axes[2].size
constexpr float kPadding = 0.0f;   // inputs[0].mask_value; only because padding.neutral is true

using Sequence = std::vector<std::array<float, kFeatures>>;

// Returns [batch, time, features], as long as the longest sequence.
std::vector<float> Padded(const std::vector<Sequence>& sequences, size_t steps) {
  std::vector<float> batch(sequences.size() * steps * kFeatures, kPadding);
  for (size_t row = 0; row < sequences.size(); ++row)
    for (size_t step = 0; step < sequences[row].size(); ++step)
      std::copy(sequences[row][step].begin(), sequences[row][step].end(),
                batch.begin() + (row * steps + step) * kFeatures);
  return batch;
}

Sequence Made(size_t steps) {
  Sequence sequence(steps);
  for (size_t t = 0; t < steps; ++t)
    for (size_t f = 0; f < kFeatures; ++f) sequence[t][f] = std::sin(float(t + f));
  return sequence;
}

int main(int, char** arguments) {
  Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "speaker");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);  // small recurrent models are fastest with one thread
  Ort::Session session(env, arguments[1], options);  // speaker-edge/model.onnx

  std::vector<Sequence> sequences = {Made(7), Made(5)};
  const size_t steps = 7;
  std::vector<float> x = Padded(sequences, steps);
  const std::array<int64_t, 3> shape = {int64_t(sequences.size()), int64_t(steps), kFeatures};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  Ort::Value input =
      Ort::Value::CreateTensor<float>(memory, x.data(), x.size(), shape.data(), shape.size());

  const char* inputs[] = {"cepstra"};   // artifacts[0].inputs
  const char* outputs[] = {"speaker"};  // artifacts[0].outputs
  auto results = session.Run(Ort::RunOptions{}, inputs, &input, 1, outputs, 1);

  const float* scores = results[0].GetTensorData<float>();
  const int64_t classes = results[0].GetTensorTypeAndShapeInfo().GetShape()[1];
  for (size_t row = 0; row < sequences.size(); ++row, scores += classes) {
    const auto best = std::max_element(scores, scores + classes) - scores;
    std::printf("%d %.6f\n", int(best), scores[best]);
  }
}
