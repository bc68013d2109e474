// An int8-full file on Android: it takes and returns integers, and keeps state between runs.
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.rint
import org.tensorflow.lite.Interpreter

/** Reads speaker-edge/model.int8-full.tflite, which has a fixed shape [1, steps, features]. */
class QuantizedSpeaker(model: ByteBuffer) : AutoCloseable {
    private val interpreter = Interpreter(model, Interpreter.Options().setNumThreads(1))
    private val input = interpreter.getInputTensor(0)
    private val output = interpreter.getOutputTensor(0)

    /** Takes steps * features floats, padded; returns the scores. */
    fun predict(x: FloatArray): FloatArray {
        // artifacts[].quantized_inputs and quantized_outputs hold the same parameters.
        val (from, to) = input.quantizationParams() to output.quantizationParams()
        val stored = ByteBuffer.allocateDirect(x.size).order(ByteOrder.nativeOrder())
        for (value in x) {
            // Half to even, clipped to int8.
            val step = rint(value / from.scale).toInt() + from.zeroPoint
            stored.put(step.coerceIn(-128, 127).toByte())
        }
        stored.rewind()
        val scores = ByteBuffer.allocateDirect(output.numElements()).order(ByteOrder.nativeOrder())
        interpreter.resetVariableTensors()  // artifacts[].reset_between_runs
        interpreter.run(stored, scores)
        scores.rewind()
        return FloatArray(output.numElements()) { (scores.get() - to.zeroPoint) * to.scale }
    }

    override fun close() = interpreter.close()
}
