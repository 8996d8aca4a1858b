import sys

from conformance.bench import main

sys.exit(main(sys.argv[1:]))
