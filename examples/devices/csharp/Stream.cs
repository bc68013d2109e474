// Runs a stateful model on a stream in parts: the returned states are the next run's states.
// Package: Microsoft.ML.OnnxRuntime
using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

sealed class Stream : IDisposable
{
    readonly InferenceSession session;
    readonly string[] inputs, outputs;    // artifacts[0].inputs and .outputs: the states come last
    DenseTensor<float>[] states = Array.Empty<DenseTensor<float>>();

    public Stream(string file, string[] inputs, string[] outputs)
    {
        session = new InferenceSession(file);
        (this.inputs, this.outputs) = (inputs, outputs);
        Reset();
    }

    // Sets all states to zeros.
    public void Reset() => states = inputs.Skip(1)
        .Select(name => new DenseTensor<float>(session.InputMetadata[name].Dimensions))
        .ToArray();

    // Takes [1, time, features] and returns [1, time, outputs].
    public DenseTensor<float> Run(DenseTensor<float> x)
    {
        var values = new[] { x }.Concat(states)
            .Zip(inputs, (value, name) => NamedOnnxValue.CreateFromTensor(name, value)).ToList();
        using var results = session.Run(values, outputs);
        var arrays = results.Select(result => result.AsTensor<float>().ToDenseTensor()).ToArray();
        states = arrays.Skip(1).ToArray();
        return arrays[0];
    }

    public void Dispose() => session.Dispose();
}
