// LiteRT on iOS: the Swift package or pod TensorFlowLiteSwift.
import Foundation
import TensorFlowLite

/// Reads speaker-edge/model.tflite. `longest` is the number of steps of the longest sequence that
/// will come: LiteRT's memory is planned for it before the first run.
final class LiteRtSpeaker {
    private let features = 12  // inputs[0].axes[2].size
    private let interpreter: Interpreter

    init(path: String, longest: Int) throws {
        var options = Interpreter.Options()
        options.threadCount = 1
        interpreter = try Interpreter(modelPath: path, options: options)
        try interpreter.resizeInput(at: 0, to: [1, longest, features])
        try interpreter.allocateTensors()
    }

    /// Takes a sequence of [time][features]; returns its scores.
    func predict(_ sequence: [[Float]]) throws -> [Float] {
        let shape: Tensor.Shape = [1, sequence.count, features]
        if try interpreter.input(at: 0).shape != shape {
            try interpreter.resizeInput(at: 0, to: shape)
            try interpreter.allocateTensors()
        }
        let x = sequence.flatMap { $0 }
        try interpreter.copy(x.withUnsafeBufferPointer { Data(buffer: $0) }, toInputAt: 0)
        try interpreter.invoke()
        return try interpreter.output(at: 0).data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
