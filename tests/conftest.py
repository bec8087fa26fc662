import os

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use('Agg')
os.environ['MPLBACKEND'] = 'Agg'         # for the processes that the tests start
os.environ['OMP_NUM_THREADS'] = '1'
torch.set_num_threads(1)                 # small tensors: more threads only wait for each other
settings.register_profile('small', max_examples=30, deadline=None, database=None)
settings.load_profile('small')


@pytest.fixture(autouse=True)
def seeded(): torch.manual_seed(0)


@pytest.fixture(scope='session')
def shapes16(tmp_path_factory):
    from ssd_tutorial.shapes import make_shapes
    return make_shapes(tmp_path_factory.mktemp('shapes')/'set', 16)
