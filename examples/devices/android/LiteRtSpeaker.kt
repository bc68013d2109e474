// LiteRT on Android: com.google.ai.edge.litert:litert in build.gradle.kts.
import java.nio.ByteBuffer
import org.tensorflow.lite.Interpreter

private const val FEATURES = 12     // inputs[0].axes[2].size
private const val PADDING = 0f      // inputs[0].mask_value; only because padding.neutral is true

/**
 * Reads speaker-edge/model.tflite from a direct buffer.
 *
 * `longest` is the number of steps of the longest sequence that will come: LiteRT's memory is planned
 * for it before the first run.
 */
class LiteRtSpeaker(model: ByteBuffer, longest: Int) : AutoCloseable {
    private val interpreter = Interpreter(model, Interpreter.Options().setNumThreads(1))

    init {
        interpreter.resizeInput(0, intArrayOf(1, longest, FEATURES))
        interpreter.allocateTensors()
    }

    /** Takes a sequence of [time][features]; returns its scores. */
    fun predict(sequence: Array<FloatArray>): FloatArray {
        val shape = intArrayOf(1, sequence.size, FEATURES)
        if (!interpreter.getInputTensor(0).shape().contentEquals(shape)) {
            interpreter.resizeInput(0, shape)
            interpreter.allocateTensors()
        }
        // The shape of the output is known after this: one row of as many scores as it says.
        val scores = Array(1) { FloatArray(interpreter.getOutputTensor(0).shape()[1]) }
        interpreter.run(arrayOf(sequence), scores)
        return scores[0]
    }

    override fun close() = interpreter.close()
}

/** Pads a sequence for a file of fixed length: `export-bilstm --batch 1 --time N`. */
fun padded(sequence: Array<FloatArray>, steps: Int): Array<FloatArray> {
    require(sequence.size <= steps) { "the sequence has ${sequence.size} steps; the model takes $steps" }
    return Array(steps) { step -> sequence.getOrNull(step) ?: FloatArray(FEATURES) { PADDING } }
}
