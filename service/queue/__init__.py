"""The queue beside the experiments themselves: places, reasons, holdings, and what people order.

reading      who waits, who holds what, how the cluster looked last
reasons      why each experiment waits
snapshot     how the scheduler saw the queue last
controls     hold, release, priority; pause, resume, drain; maintenance windows
group_holds  holds on many experiments at once
limits       quotas and shares of projects and users
overview     what those who run do and hold, why and how long the others wait
capacity     what the cluster has and what is given out of it, by node, kind of GPU and role
standing     how projects and users stand: held, used beside their share, quotas
explain      the terms of one experiment's place
"""

from service.queue.reading import Taken, cluster_state, holding_rows, position, taken, waiting_rows

__all__ = ["Taken", "cluster_state", "holding_rows", "position", "taken", "waiting_rows"]
