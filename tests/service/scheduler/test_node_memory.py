import pytest

from service.scheduler.node_memory import GIB, NodeMemory, read_node_memory


def test_the_largest_node_and_the_sum_are_told() -> None:
    nodes = [{"CPU": 4.0, "memory": 8 * GIB}, {"CPU": 2.0, "memory": 3 * GIB}]
    assert read_node_memory(nodes) == NodeMemory(node_bytes=8 * GIB, total_bytes=11 * GIB)


def test_one_silent_node_leaves_the_memory_unknown() -> None:
    assert read_node_memory([{"CPU": 4.0, "memory": 8 * GIB}, {"CPU": 2.0}]) == NodeMemory()
    assert read_node_memory([]) == NodeMemory()


@pytest.mark.parametrize(
    ("kinds", "gpu_bytes"),
    [
        (["H100"], 79 * GIB),
        (["L4", "H100"], 79 * GIB),
        # Ray calls both of its sizes A100.
        (["A100"], None),
        (["H100", "A100"], None),
        ([], None),
    ],
)
def test_the_memory_of_a_gpu_follows_from_its_kind(kinds: list[str], gpu_bytes: float | None) -> None:
    nodes = [{"CPU": 4.0, "GPU": 8.0, f"accelerator_type:{kind}": 1.0} for kind in kinds]
    assert read_node_memory([*nodes, {"CPU": 1.0}]).gpu_bytes == gpu_bytes


def test_a_gpu_of_no_kind_is_unknown() -> None:
    assert read_node_memory([{"GPU": 1.0}, {"GPU": 1.0, "accelerator_type:H100": 1.0}]).gpu_bytes is None
