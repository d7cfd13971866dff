"""The little of curl that the README uses, for machines without it: `make test` needs Python, make and git only."""

import argparse
import sys
import urllib.request
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(prog="curl")
    parser.add_argument("-H", "--header", action="append", default=[])
    parser.add_argument("-d", "--data", type=str.encode)
    parser.add_argument("--data-binary", type=lambda name: Path(name.removeprefix("@")).read_bytes(), dest="data")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("url")
    arguments = parser.parse_args()
    headers = dict(header.split(": ", 1) for header in arguments.header)
    request = urllib.request.Request(f"http://{arguments.url}", data=arguments.data, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        body = response.read()
    if arguments.output:
        arguments.output.write_bytes(body)
    else:
        sys.stdout.buffer.write(body)


if __name__ == "__main__":
    main()
