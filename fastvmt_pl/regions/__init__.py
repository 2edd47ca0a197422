"""The region of a clip whose motion is transferred, and its place in the new video."""

from fastvmt_pl.regions.placing import check_place, check_seen, parse_place, place_of
from fastvmt_pl.regions.region import Region, RegionGiven, RegionOf, find_region, parse_region

__all__ = [
    "Region",
    "RegionGiven",
    "RegionOf",
    "check_place",
    "check_seen",
    "find_region",
    "parse_place",
    "parse_region",
    "place_of",
]
