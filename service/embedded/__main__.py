"""`python -m service.embedded`: the whole service on this machine until Ctrl-C; what `sedray up` executes."""

import argparse
import logging
import os
import sys
from pathlib import Path

from service.embedded.data_folder import DataFolder
from service.embedded.endpoint import withdraw
from service.embedded.guard import run_guarded
from service.embedded.ray_head import RayAddress
from service.embedded.stack import Options, run_stack
from service.log_format import configure_logging


def read_options(arguments: list[str]) -> Options:
    """The options of the command line; ends the process with a usage message if they are not valid."""
    parser = argparse.ArgumentParser(prog="python -m service.embedded", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(".sedray"), help="folder for everything (default: .sedray)")
    parser.add_argument("--host", default="127.0.0.1", help="address of API and page (default: 127.0.0.1)")
    parser.add_argument("--port", type=_port, default=0, help="port of API and page; 0 takes a free one (default)")
    parser.add_argument(
        "--num-cpus", type=_positive, help="CPUs that Ray hands out (default: the machine's, at least 2)"
    )
    parser.add_argument("--database-url", help="postgresql+psycopg://… instead of the embedded PostgreSQL")
    parser.add_argument("--ray-address", help="http://… of a Ray dashboard, instead of the embedded Ray")
    parser.add_argument("--ray-token-file", type=Path, help="file with that cluster's token")
    given = parser.parse_args(arguments)
    if given.database_url and not given.database_url.startswith("postgresql+psycopg://"):
        parser.error("--database-url must start with postgresql+psycopg:// (PostgreSQL through psycopg 3)")
    if bool(given.ray_address) != bool(given.ray_token_file):
        parser.error("--ray-address and --ray-token-file belong together: a cluster without a token is open to anybody")
    if given.ray_token_file and not given.ray_token_file.is_file():
        parser.error(f"--ray-token-file {given.ray_token_file} is not a file")
    if given.ray_address and given.num_cpus:
        parser.error("--num-cpus is for the embedded Ray; a cluster of your own knows its CPUs")
    return Options(
        data=given.data,
        host=given.host,
        port=given.port,
        num_cpus=given.num_cpus,
        database_url=given.database_url,
        ray=_ray_address(given.ray_address, given.ray_token_file),
    )


def _ray_address(url: str | None, token_file: Path | None) -> RayAddress | None:
    if url is None or token_file is None:
        return None
    return RayAddress(dashboard_url=url.rstrip("/"), token_file=token_file.resolve())


def _port(value: str) -> int:
    port = int(value)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError("a port is a number from 0 to 65535")
    return port


def _positive(value: str) -> int:
    number = int(value)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def main() -> int:
    """Exit code 0 after a requested stop, 1 if the stack does not come up."""
    options = read_options(sys.argv[1:])
    configure_logging(logging.WARNING)
    front = os.getpid()
    code = run_guarded(lambda stop: run_stack(options, stop, front=front))
    withdraw(DataFolder(root=options.data.resolve()).endpoint, front)  # still there if the keeper was killed
    return code


if __name__ == "__main__":
    sys.exit(main())
