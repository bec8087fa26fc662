"A Firefox of the system, without a window, by WebDriver BiDi: as much as the tests need."
import json
import re
import subprocess
import time
from contextlib import contextmanager
from itertools import count

from websockets.sync.client import connect

QUIET = {'datareporting.policy.dataSubmissionEnabled': False,
         'browser.shell.checkDefaultBrowser': False,
         'network.captive-portal-service.enabled': False}


class Page:
    "One tab. What a script gives comes back as JSON."
    def __init__(self, socket):
        self.socket = socket
        self.numbers = count()
        self.call('session.new', capabilities={})
        tree = self.call('browsingContext.getTree')
        self.tab = tree['contexts'][0]['context']

    def call(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps(dict(id=number, method=method, params=params)))
        # events come in between
        while (answer := json.loads(self.socket.recv(timeout=60))).get('id') != number: pass
        assert answer['type'] == 'success', answer
        return answer['result']

    def goto(self, url):
        self.call('browsingContext.navigate', context=self.tab, url=url, wait='complete')

    def evaluate(self, script):
        "The value of an expression, which may be a promise."
        given = self.call('script.evaluate', target=dict(context=self.tab), awaitPromise=True,
                          expression=f'(async () => JSON.stringify(await ({script})))()')
        assert given['type'] == 'success', given
        return json.loads(given['result'].get('value', 'null'))

    def wait_for(self, script, seconds=30):
        "Ask until an expression is true."
        for _ in range(10 * seconds):
            if self.evaluate(script): return
            time.sleep(.1)
        raise TimeoutError(f'{script} is never true')

    def press(self, key):
        actions = [dict(type=kind, value=key) for kind in ('keyDown', 'keyUp')]
        self.call('input.performActions', context=self.tab,
                  actions=[dict(type='key', id='keys', actions=actions)])


@contextmanager
def firefox(path, profile):
    "Start it, with a profile of its own, and end it."
    lines = [f'user_pref({json.dumps(k)}, {json.dumps(v)});' for k, v in QUIET.items()]
    (profile/'user.js').write_text('\n'.join(lines))
    command = [path, '--headless', '--no-remote', '--profile', str(profile),
               '--remote-debugging-port', '0', 'about:blank']
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               text=True)
    try:
        found = (re.search(r'BiDi listening on (ws://\S+)', line) for line in process.stderr)
        address = next(filter(None, found))[1]
        with connect(f'{address}/session', max_size=None) as socket: yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)
