"""Classifies recorded sequences on a Raspberry Pi; needs bilstm-edge[onnx] or [litert]."""

import json
import sys
from pathlib import Path

from bilstm_runtime import load

bundle, utterances = sys.argv[1:]
with load(bundle) as model:  # the installed backend, one thread
    sequences = [json.loads(line) for line in Path(utterances).read_text().splitlines()]
    for scores in model.predict(sequences):  # padded and grouped as the manifest allows
        print(scores.argmax(), round(float(scores.max()), 6))
