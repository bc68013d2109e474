//! Classifies one sequence with tract, which is written in Rust throughout.
//!
//! Export with `--target tract`: the export then runs the file in tract, or says why it cannot.

use tract_onnx::prelude::*;

const FEATURES: usize = 12; // inputs[0].axes[2].size

fn main() -> TractResult<()> {
    let file = std::env::args()
        .nth(1)
        .expect("the path of speaker-edge/model.onnx");
    let steps = 7;
    // With the shape known, tract plans its memory and folds what depends on shapes.
    let model = tract_onnx::onnx()
        .model_for_path(file)?
        .with_input_fact(0, f32::fact([1, steps, FEATURES]).into())?
        .with_output_fact(0, Default::default())? // the file names the axes of its outputs
        .into_optimized()?
        .into_runnable()?;
    let x = tract_ndarray::Array3::from_shape_fn((1, steps, FEATURES), |(_, t, f)| {
        ((t + f) as f32).sin()
    });
    let results = model.run(tvec!(x.into_tensor().into()))?;
    let scores = results[0].to_array_view::<f32>()?;
    let best = (0..scores.len()).max_by(|&a, &b| scores[[0, a]].total_cmp(&scores[[0, b]]));
    println!("{} {:?}", best.unwrap_or(0), scores);
    Ok(())
}
