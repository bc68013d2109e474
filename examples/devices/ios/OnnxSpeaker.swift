// onnxruntime on iOS: the Swift package or pod onnxruntime-objc (module OnnxRuntimeBindings).
import Foundation
import OnnxRuntimeBindings

/// Reads speaker-edge/model.onnx.
final class OnnxSpeaker {
    private let features = 12         // inputs[0].axes[2].size
    private let padding: Float = 0    // inputs[0].mask_value; only because padding.neutral is true
    private let environment: ORTEnv
    private let session: ORTSession

    init(path: String) throws {
        environment = try ORTEnv(loggingLevel: .error)
        let options = try ORTSessionOptions()
        try options.setIntraOpNumThreads(1)  // small recurrent models are fastest with one thread
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: options)
    }

    /// Takes sequences of [time][features]; returns the scores of each.
    func predict(_ sequences: [[[Float]]]) throws -> [[Float]] {
        let steps = sequences.map(\.count).max() ?? 0
        let rows = sequences.map { sequence in
            sequence + Array(repeating: Array(repeating: padding, count: features), count: steps - sequence.count)
        }
        var batch = rows.flatMap { $0.flatMap { $0 } }
        let data = NSMutableData(bytes: &batch, length: batch.count * MemoryLayout<Float>.stride)
        let shape = [sequences.count, steps, features].map { NSNumber(value: $0) }
        let x = try ORTValue(tensorData: data, elementType: .float, shape: shape)
        let results = try session.run(withInputs: ["cepstra": x], outputNames: ["speaker"], runOptions: nil)
        let found = try results["speaker"]!.tensorData() as Data
        let scores = found.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        let classes = scores.count / sequences.count
        return stride(from: 0, to: scores.count, by: classes).map { Array(scores[$0..<$0 + classes]) }
    }
}
