"""Classifies one sequence with tflite-runtime 2.14, the last wheel for 32-bit Raspberry Pi OS."""

import json
import sys
from pathlib import Path

import numpy as np
from tflite_runtime.interpreter import Interpreter

file, utterances = sys.argv[1:]  # speaker-edge/model.tflite
interpreter = Interpreter(file, num_threads=1)
runner = interpreter.get_signature_runner("serving_default")
for line in Path(utterances).read_text().splitlines():
    x = np.asarray([json.loads(line)], np.float32)  # [1, time, 12]: one length per call, no padding
    scores = runner(cepstra=x)["speaker"][0]
    print(scores.argmax(), round(float(scores.max()), 6))
