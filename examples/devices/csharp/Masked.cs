// Classifies two sequences of different lengths in one run, padded as manifest.json allows.
// Package: Microsoft.ML.OnnxRuntime
using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

static class Masked
{
    const int Features = 12;    // inputs[0].axes[2].size
    const float Padding = 0f;   // inputs[0].mask_value; only because padding.neutral is true

    // Returns [batch, time, features], as long as the longest sequence.
    static DenseTensor<float> Padded(IReadOnlyList<float[][]> sequences)
    {
        int steps = sequences.Max(sequence => sequence.Length);
        var batch = new DenseTensor<float>(new[] { sequences.Count, steps, Features });
        batch.Fill(Padding);
        for (int row = 0; row < sequences.Count; row++)
            for (int step = 0; step < sequences[row].Length; step++)
                for (int feature = 0; feature < Features; feature++)
                    batch[row, step, feature] = sequences[row][step][feature];
        return batch;
    }

    static void Main(string[] arguments)
    {
        using var options = new SessionOptions { IntraOpNumThreads = 1 };
        using var session = new InferenceSession(arguments[0], options);  // speaker-edge/model.onnx
        float[][] Made(int steps) => Enumerable.Range(0, steps)
            .Select(t => Enumerable.Range(0, Features).Select(f => (float)Math.Sin(t + f)).ToArray())
            .ToArray();
        var x = Padded(new[] { Made(7), Made(5) });
        using var results = session.Run(new[] { NamedOnnxValue.CreateFromTensor("cepstra", x) });
        var scores = results.First(result => result.Name == "speaker").AsTensor<float>();
        for (int row = 0; row < scores.Dimensions[0]; row++)
        {
            int best = Enumerable.Range(0, scores.Dimensions[1]).OrderByDescending(i => scores[row, i]).First();
            Console.WriteLine($"{best} {scores[row, best]:F6}");
        }
    }
}
