//! Classifies two sequences of different lengths in one run, padded as manifest.json allows.

use ndarray::Array3;
use ort::session::Session;
use ort::value::Tensor;

const FEATURES: usize = 12; // inputs[0].axes[2].size
const PADDING: f32 = 0.0; // inputs[0].mask_value; only because padding.neutral is true

type Sequence = Vec<[f32; FEATURES]>;

/// Returns `[batch, time, features]`, as long as the longest sequence.
fn padded(sequences: &[Sequence]) -> Array3<f32> {
    let steps = sequences.iter().map(Vec::len).max().unwrap_or(0);
    Array3::from_shape_fn(
        (sequences.len(), steps, FEATURES),
        |(row, step, feature)| {
            sequences[row]
                .get(step)
                .map_or(PADDING, |values| values[feature])
        },
    )
}

fn made(steps: usize) -> Sequence {
    let values = |t: usize| std::array::from_fn(|f| ((t + f) as f32).sin());
    (0..steps).map(values).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args()
        .nth(1)
        .expect("the path of speaker-edge/model.onnx");
    let mut session = Session::builder()?
        .with_intra_threads(1)? // small recurrent models are fastest with one thread
        .commit_from_file(file)?;
    let x = Tensor::from_array(padded(&[made(7), made(5)]))?;
    let results = session.run(ort::inputs!["cepstra" => x])?;
    let scores = results["speaker"].try_extract_array::<f32>()?;
    for row in scores.rows() {
        let best = (0..row.len())
            .max_by(|&a, &b| row[a].total_cmp(&row[b]))
            .unwrap_or(0);
        println!("{best} {:.6}", row[best]);
    }
    Ok(())
}
