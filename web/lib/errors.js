/** The errors of this package. */

/** Any error of this module; its message is a sentence. */
export class BilstmEdgeError extends Error {
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}
/** A data file cannot be read. */
export class DataFileError extends BilstmEdgeError {}
/** An argument other than the data cannot be used. */
export class OptionError extends BilstmEdgeError {}
/** The data is not what the model takes. */
export class InputError extends BilstmEdgeError {}
/** A text is for a part of the library tokenizers that this package does not have: give ids. */
export class TokenizerError extends InputError {}
/** The bundle is missing, damaged, or not what was asked for. */
export class BundleError extends BilstmEdgeError {}
/** The bundle was written in a newer format. */
export class BundleVersionError extends BundleError {}
/** A file differs from its SHA-256 or its size in the manifest. */
export class ChecksumError extends BundleError {}
/** The bundle has no ONNX file of that recipe. */
export class NoArtifactError extends BundleError {}
/** The model file cannot be opened, or is not the one that the manifest describes. */
export class ArtifactError extends BundleError {}
/** onnxruntime failed, or returned something else than the manifest says. */
export class RunError extends BilstmEdgeError {}
