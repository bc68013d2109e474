// onnxruntime on Android: com.microsoft.onnxruntime:onnxruntime-android in build.gradle.kts.
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.nio.FloatBuffer

private const val FEATURES = 12     // inputs[0].axes[2].size
private const val PADDING = 0f      // inputs[0].mask_value; only because padding.neutral is true

/** Reads speaker-edge/model.onnx: `OnnxSpeaker(assets.open("model.onnx").readBytes())`. */
class OnnxSpeaker(model: ByteArray) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session = OrtSession.SessionOptions().use { options ->
        options.setIntraOpNumThreads(1)  // small recurrent models are fastest with one thread
        environment.createSession(model, options)
    }

    /** Takes sequences of [time][features]; returns the scores of each. */
    fun predict(sequences: List<Array<FloatArray>>): Array<FloatArray> {
        val steps = sequences.maxOf { it.size }
        val batch = FloatArray(sequences.size * steps * FEATURES) { PADDING }
        sequences.forEachIndexed { row, sequence ->
            sequence.forEachIndexed { step, values ->
                values.copyInto(batch, (row * steps + step) * FEATURES)
            }
        }
        val shape = longArrayOf(sequences.size.toLong(), steps.toLong(), FEATURES.toLong())
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(batch), shape).use { x ->
            session.run(mapOf("cepstra" to x)).use { results ->
                @Suppress("UNCHECKED_CAST")
                return results["speaker"].get().value as Array<FloatArray>
            }
        }
    }

    override fun close() = session.close()
}
