/**
 * Checks bundles and predicts with them, under Node or in a browser.
 *
 * A job is `{ name, source, requests }`; the result has, for every recipe, the report of `check` and
 * the outputs of each request, or the error.
 */

export async function runJobs({ load, openBundle, check }, ort, jobs) {
  const results = [];
  for (const { name, source, requests } of jobs) {
    const bundle = await openBundle(source);
    for (const recipe of bundle.recipes) {
      const result = { name, recipe, outputs: [], answers: [] };
      try {
        const model = await load(bundle, { ort, recipe });
        result.report = await check(model);
        for (const x of requests) {
          await model.reset();
          result.outputs.push(listed(await model.predict(x)));
          result.answers.push(await answersOf(model, x));
        }
        await model.close();
      } catch (error) {
        result.error = `${error.name}: ${error.message}`;
      }
      results.push(result);
    }
  }
  return results;
}

/** The answers of every output that has labels, by its name. */
async function answersOf(model, x) {
  const found = {};
  for (const { output, kind, scheme } of model.manifest.decoding) {
    await model.reset();
    const method = { labels: "classify", tags: "tag", ctc: "transcribe" }[kind];
    found[output] = await model[method](x, { output });
    if (scheme) found[`${output} spans`] = await model.spans(x, { output });
  }
  return found;
}

/** Outputs as JSON: arrays as `{ dtype, shape, data }`. */
function listed(output) {
  if (Array.isArray(output)) return output.map(listed);
  if (output.data === undefined) {
    return Object.fromEntries(Object.entries(output).map(([name, item]) => [name, listed(item)]));
  }
  const { dtype, shape, data } = output;
  return { dtype, shape, data: Array.from(data, Number) };
}
