// A stateful model on a stream in parts: the returned states are the next run's states.
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import java.nio.FloatBuffer

class OnnxStream(model: ByteArray) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val session = environment.createSession(model)

    // A file lists its tensors in this order: inputs, states; outputs, new states.
    private val inputs = session.inputInfo.entries.toList()
    private val states = inputs.drop(1)
    private var last: OrtSession.Result? = null

    /** Sets all states to zeros. */
    fun reset() {
        last?.close()
        last = null
    }

    /** Takes [1, time, features] in row-major order; returns [1][time][outputs]. */
    fun run(x: FloatArray, features: Int): Array<Array<FloatArray>> {
        val shape = longArrayOf(1, (x.size / features).toLong(), features.toLong())
        val previous = last
        val zeros = if (previous != null) emptyList() else states.map { zeros(it.value.info as TensorInfo) }
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(x), shape).use { tensor ->
            val feeds = mutableMapOf(inputs[0].key to tensor)
            states.forEachIndexed { i, state ->
                feeds[state.key] = if (previous == null) zeros[i] else previous[i + 1] as OnnxTensor
            }
            last = session.run(feeds)
        }
        previous?.close()
        zeros.forEach { it.close() }
        @Suppress("UNCHECKED_CAST")
        return last!![0].value as Array<Array<FloatArray>>
    }

    private fun zeros(info: TensorInfo): OnnxTensor {
        val count = info.shape.fold(1L) { a, b -> a * b }.toInt()
        return OnnxTensor.createTensor(environment, FloatBuffer.allocate(count), info.shape)
    }

    override fun close() {
        reset()
        session.close()
    }
}
