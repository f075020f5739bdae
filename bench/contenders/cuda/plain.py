"""fusedstep on a GPU without a case's option: what the option costs."""

from bench.contenders import plain
from bench.contenders.cuda import fusedstep


class Contender(fusedstep.Contender):
    fit = plain.Contender.fit
