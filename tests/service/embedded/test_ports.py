import socket
from pathlib import Path

from service.embedded.ports import NUM_WORKER_PORTS, Ports, choose_ports, is_free


def test_no_port_of_a_block_is_used_twice() -> None:
    ports = Ports(base=20_000)
    named = [value for name in dir(Ports) if isinstance(value := getattr(ports, name), int) and name != "base"]
    first, last = ports.workers
    assert len(named) == len(set(named)) == 10
    assert max(named) < first
    assert last - first + 1 == NUM_WORKER_PORTS


def test_the_ports_of_the_last_run_are_taken_again(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    assert choose_ports(file, "127.0.0.1") == choose_ports(file, "127.0.0.1")


def test_taken_ports_are_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    before = choose_ports(file, "127.0.0.1")
    with socket.create_server(("127.0.0.1", before.agent)):
        after = choose_ports(file, "127.0.0.1")
    assert before.agent not in after.all


def test_a_damaged_memory_of_ports_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    file.write_text("{")
    assert choose_ports(file, "127.0.0.1") == choose_ports(file, "127.0.0.1")


def test_an_address_that_is_not_ours_is_not_free() -> None:
    assert not is_free("192.0.2.1", 20_000)
