"""The names of `plasticity_env.dynamic`, and the files that they come from."""

from .bank import StructureBank as StructureBank
from .clusters import cluster_bank as cluster_bank
from .domain import Domain as Domain
from .domain_body import Domains as Domains
from .domain_router import DomainRouter as DomainRouter
from .embedded_bank import embedded_bank as embedded_bank
from .fitting import build_bank as build_bank
from .fitting import fit_structures as fit_structures
from .nearest import NearestTexts as NearestTexts
from .new_domain import NewDomainTest as NewDomainTest
from .new_domain import Verdict as Verdict
from .prefix import PrefixReader as PrefixReader
from .prefix import PrefixView as PrefixView
from .route_table import RouteTable as RouteTable
from .route_table import measure_routes as measure_routes
from .routed_model import RoutedModel as RoutedModel
from .structure import Structure as Structure
