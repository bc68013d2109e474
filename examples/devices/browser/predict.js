import * as ort from "onnxruntime-web";
import { InputError, load } from "bilstm-edge";

// In a browser: load("speaker-edge/", { ort })
const model = await load(process.argv[2], { ort });
console.log(model.name, model.recipe, model.inputs[0].axes.map((axis) => axis.name ?? axis.size));

// Two sequences of 7 and 5 steps with 12 features: they are padded, and run as the model allows.
const sequence = (steps) => Array.from({ length: steps }, () => Array(12).fill(0.1));
const y = await model.predict([sequence(7), sequence(5)]);
console.log(y.shape, y.argmax().toArray());

try {
  await model.predict([[["seven"]]]);
} catch (error) {
  if (error instanceof InputError) console.log(error.message);
}
