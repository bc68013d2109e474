// A stateful model on a stream in parts: the returned states are the next run's states.
import Foundation
import OnnxRuntimeBindings

final class OnnxStream {
    private let environment: ORTEnv
    private let session: ORTSession
    private let inputs: [String]    // artifacts[0].inputs: the states come last
    private let outputs: [String]   // artifacts[0].outputs
    private let shapes: [[Int]]     // states[].axes[].size
    private var states: [ORTValue] = []

    init(path: String, inputs: [String], outputs: [String], shapes: [[Int]]) throws {
        environment = try ORTEnv(loggingLevel: .error)
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: nil)
        (self.inputs, self.outputs, self.shapes) = (inputs, outputs, shapes)
        try reset()
    }

    /// Sets all states to zeros.
    func reset() throws {
        states = try shapes.map { shape in
            let bytes = shape.reduce(MemoryLayout<Float>.stride, *)
            return try ORTValue(
                tensorData: NSMutableData(length: bytes)!, elementType: .float,
                shape: shape.map { NSNumber(value: $0) })
        }
    }

    /// Takes [1, time, features] in row-major order; returns [1, time, outputs] in the same way.
    func run(_ values: [Float], features: Int) throws -> [Float] {
        var x = values
        let data = NSMutableData(bytes: &x, length: x.count * MemoryLayout<Float>.stride)
        let shape = [1, x.count / features, features].map { NSNumber(value: $0) }
        let tensor = try ORTValue(tensorData: data, elementType: .float, shape: shape)
        let feeds = Dictionary(uniqueKeysWithValues: zip(inputs, [tensor] + states))
        let results = try session.run(withInputs: feeds, outputNames: Set(outputs), runOptions: nil)
        states = outputs.dropFirst().map { results[$0]! }
        let found = try results[outputs[0]]!.tensorData() as Data
        return found.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}
