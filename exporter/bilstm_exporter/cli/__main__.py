"""``python -m bilstm_exporter.cli``."""

import sys

from bilstm_exporter.cli import main

sys.exit(main())
