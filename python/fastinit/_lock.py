"""The one lock for what the whole process shares: patches, registrations, counts of open blocks."""

import os
import threading

lock = threading.RLock()
# A child gets the lock as it is. Taken by a thread that the child does not have, it would never be free again.
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
