"""Everything that a driver tells the service: the HTTP calls, the ordered outbox, and the thread between them.

training thread                reporter thread                      service
  points, lines, samples ──>  batch ──> outbox (memory, then disk)
  (append, never waits)                   head ── POST, same body until acknowledged ──> stored once per seq
                                          <── ack: go on, or cancel
"""
