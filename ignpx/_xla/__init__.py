"""All code that depends on internals of JAX and that an upgrade of JAX may break.

The package has loops that compile once for equal steps, gradients that are fast on a CPU, and
readers of the jaxpr of a model: tagged values, the uses of parameters, the factors of gradients.
Other modules import from this file only.
"""

from ignpx._xla import factors as factors
from ignpx._xla.caching import cached as cached
from ignpx._xla.caching import identity as identity
from ignpx._xla.caching import jit as jit
from ignpx._xla.convolutions import fast as fast
from ignpx._xla.convolutions import grad as grad
from ignpx._xla.convolutions import value_and_grad as value_and_grad
from ignpx._xla.jaxprs import product_bytes as product_bytes
from ignpx._xla.layers import Maps as Maps
from ignpx._xla.layers import Read as Read
from ignpx._xla.layers import inputs_of_kernels as inputs_of_kernels
from ignpx._xla.layers import last_maps as last_maps
from ignpx._xla.loops import Step as Step
from ignpx._xla.loops import iterate as iterate
from ignpx._xla.loops import repeat as repeat
from ignpx._xla.noise import normal_rows as normal_rows
from ignpx._xla.tagging import Found as Found
from ignpx._xla.tagging import observed as observed
from ignpx._xla.tagging import tag as tag
from ignpx._xla.uses import Use as Use
from ignpx._xla.uses import uses as uses
