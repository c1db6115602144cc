"""The systems that are compared."""

from .base import System, Tools
from .encrypted import Cryfs, Gocryptfs, Securefs
from .kernel import Btrfs, Native, Xfs
from .larder import Larder, LarderEncrypted, LarderRemote
from .objects import JuiceFs
from .plain import Bindfs, Memory

# In the order of the report. All ratios are to the first.
ALL = (
    Native, Larder, LarderEncrypted, LarderRemote, Memory, Bindfs, JuiceFs, Gocryptfs, Securefs, Cryfs, Xfs, Btrfs
)

__all__ = ["ALL", "System", "Tools"]
