"""`python -m hf_mi_ssl.methods`: the table; `… simclr`: one row in full."""

import sys

from .printing import main

sys.exit(main())
