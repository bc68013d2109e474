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
      const result = { name, recipe, outputs: [] };
      try {
        const model = await load(bundle, { ort, recipe });
        result.report = await check(model);
        for (const x of requests) {
          await model.reset();
          result.outputs.push(listed(await model.predict(x)));
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

/** Outputs as JSON: arrays as `{ dtype, shape, data }`. */
function listed(output) {
  if (Array.isArray(output)) return output.map(listed);
  if (output.data === undefined) {
    return Object.fromEntries(Object.entries(output).map(([name, item]) => [name, listed(item)]));
  }
  const { dtype, shape, data } = output;
  return { dtype, shape, data: Array.from(data, Number) };
}
