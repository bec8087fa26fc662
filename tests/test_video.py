"Videos: what a tracker counts, files that can and cannot be read, interruptions."
import json
import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from makers import video
from ssd_tutorial.data import Vocab
from ssd_tutorial.predict import Detections, Detector
from ssd_tutorial.video import ObjectTracker, camera_number, is_video, predict_video

EXTRA = 'needs the extra video'
sv = pytest.importorskip('supervision', reason=EXTRA)
pytest.importorskip('trackers', reason=EXTRA)
av = pytest.importorskip('av', reason=EXTRA)

VOCAB = Vocab(['left', 'right'])
BLACK = Image.new('RGB', (160, 120))


def boxes(i):
    "Frame `i`: one box moves to the right, one to the left, in rows of their own."
    return [[4 * i, 10, 4 * i + 40, 50], [120 - 4 * i, 60, 160 - 4 * i, 100]]


def seen(i, scores=(.9, .9), labels=('right', 'left'), size=(160, 120)):
    return Detections(np.array(boxes(i), float), list(labels), np.array(scores),
                      Image.new('RGB', size))


def read(path):
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return [f.to_ndarray(format='rgb24') for f in frames], [float(f.time) for f in frames]


def grey(n=20, size=(160, 120)):
    return [np.full((size[1], size[0], 3), 60, np.uint8) for _ in range(n)]


class Scripted:
    "In place of a detector: frame `i` of a video gets `seen(i)`, and the frames are kept."
    vocab = VOCAB

    def __init__(self, stop_at=None):
        self.frames = []
        self.thresholds = []
        self.sizes = []
        self.stop_at = stop_at

    def predict(self, images, score_thresh, nms_thresh):
        self.sizes.append(len(images))
        self.thresholds.append((score_thresh, nms_thresh))
        found = []
        for image in images:
            if len(self.frames) == self.stop_at: raise KeyboardInterrupt
            d = seen(len(self.frames))
            d.image = Image.fromarray(image)
            self.frames.append(image)
            found.append(d)
        return found


@pytest.fixture
def scripted(monkeypatch):
    def use(**kwargs):
        detector = Scripted(**kwargs)
        monkeypatch.setattr(Detector, 'load', lambda path: detector)
        return detector

    return use


def predict(source, out, **kwargs):
    return predict_video(source, 'd.pt', out, progress=False, **kwargs)


# ---- supervision's form

def test_to_supervision_has_all_that_its_tools_look_for():
    d = seen(3, scores=(.9, .4)).to_supervision(VOCAB)
    assert d.xyxy.tolist() == boxes(3) and d.confidence == pytest.approx([.9, .4])
    assert d.class_id.tolist() == [2, 1]
    assert d.data['class_name'].tolist() == ['right', 'left']
    # its tools work on it
    assert len(d[d.confidence > .5]) == 1 and len(d.with_nms(.5)) == 2
    drawn = sv.BoxAnnotator().annotate(np.zeros((120, 160, 3), np.uint8), d)
    assert drawn.any()


def test_to_supervision_without_detections():
    nothing = Detections(np.zeros((0, 4)), [], np.zeros(0), BLACK).to_supervision(VOCAB)
    assert len(nothing) == 0 and nothing.xyxy.shape == (0, 4)
    assert len(sv.Detections.merge([nothing, seen(0).to_supervision(VOCAB)])) == 2


def test_a_class_that_the_vocabulary_lacks():
    with pytest.raises(ValueError, match="unknown class 'right'"):
        seen(0).to_supervision(Vocab(['left']))


@pytest.mark.parametrize('missing', ['supervision', 'trackers', 'av'])
def test_a_package_that_is_missing_is_named_before_anything_is_read(tmp_path, monkeypatch,
                                                                     missing):
    # None in sys.modules is how Python marks what cannot be imported
    monkeypatch.setitem(sys.modules, missing, None)
    command = r'pip install "ssd-tutorial\[video\]"'
    with pytest.raises(ImportError, match=f'{missing} is needed.*{command}'):
        predict(tmp_path/'none.mp4', tmp_path/'out')
    assert list(tmp_path.iterdir()) == []


# ---- tracking

def test_numbers_stay_and_begin_at_one():
    tracker = ObjectTracker(VOCAB, fps=10)
    rows = [tracker.update(seen(i)) for i in range(30)]
    assert len(rows[0]) == 0
    for i, found in enumerate(rows[1:], 1):
        by_number = dict(zip(found.tracker_id.tolist(), found.xyxy.tolist()))
        assert sorted(by_number) == [1, 2]
        assert by_number == dict(zip([1, 2], boxes(i)))
    assert tracker.counts == dict(left=1, right=1)


def test_numbers_begin_anew_with_each_tracker():
    "Some versions of the library go on counting in the whole process."
    for _ in range(2):
        tracker = ObjectTracker(VOCAB)
        for i in range(4): found = tracker.update(seen(i))
        assert sorted(found.tracker_id.tolist()) == [1, 2]


def test_weak_boxes_continue_a_track_but_begin_none():
    weak = (.9, .3)
    tracker = ObjectTracker(VOCAB, score_thresh=.5)
    for i in range(10): found = tracker.update(seen(i, weak))
    assert found.data['class_name'].tolist() == ['right'] and tracker.counts == dict(right=1)
    tracker = ObjectTracker(VOCAB, score_thresh=.5)
    for i in range(10): found = tracker.update(seen(i, (.9, .9) if i < 3 else weak))
    assert sorted(found.data['class_name'].tolist()) == ['left', 'right']
    tracker = ObjectTracker(VOCAB, score_thresh=.5)
    for i in range(3): found = tracker.update(seen(i, (.9, .55)))
    assert len(found) == 2


def test_the_frames_vote_on_the_class():
    tracker = ObjectTracker(VOCAB)
    for i in range(12):
        names = ('left', 'left') if i % 4 == 3 else ('right', 'left')
        found = tracker.update(seen(i, labels=names))
    assert tracker.counts == dict(left=1, right=1)
    assert sorted(found.data['class_name'].tolist()) == ['left', 'right']
    assert sorted(found.class_id.tolist()) == [1, 2]


def test_an_object_that_is_hidden_for_a_moment_keeps_its_number():
    tracker = ObjectTracker(VOCAB, fps=25)
    nothing = Detections(np.zeros((0, 4)), [], np.zeros(0), BLACK)
    for i in range(30):
        found = tracker.update(nothing if 10 <= i < 14 else seen(i))
        if 10 <= i < 14: assert len(found) == 0
    assert sorted(found.tracker_id.tolist()) == [1, 2]


# ---- what is a video

@pytest.mark.parametrize('source, number', [
    ('webcam', 0), ('webcam:0', 0), ('webcam:12', 12), (3, 3),
    ('webcams', None), ('webcam:', None), ('0', None), ('webcam.mp4', None)])
def test_how_a_webcam_is_named(source, number):
    assert camera_number(source) == number
    if number is not None: assert is_video(source)


def test_videos_are_known_by_their_endings(tmp_path):
    for name in ('a.mp4', 'b.MOV', 'c.d.webm', tmp_path/'x.mkv'): assert is_video(name)
    for name in ('a.png', 'mp4', 'a.mp4.txt', 'webcams'): assert not is_video(name)
    (tmp_path/'folder.mp4').mkdir()
    assert not is_video(tmp_path/'folder.mp4')


# ---- whole videos

def test_a_video_becomes_a_video_and_a_file_of_boxes(tmp_path, scripted, capsys):
    detector = scripted()
    source = video(tmp_path/'in'/'clip.mp4', grey(20))
    facts = predict(source, tmp_path/'new'/'out', score_thresh=.6, nms_thresh=.4)
    assert sorted(p.name for p in (tmp_path/'new'/'out').iterdir()) == ['clip.json', 'clip.mp4']
    assert json.loads((tmp_path/'new'/'out'/'clip.json').read_text()) == facts
    want = dict(video=str(source), width=160, height=120, fps=10., annotated='clip.mp4',
                counts=dict(left=1, right=1))
    assert {k: v for k, v in facts.items() if k != 'frames'} == want
    assert detector.sizes == [16, 4] and set(detector.thresholds) == {(.3, .4)}
    said = capsys.readouterr().out
    for piece in ('1 left, 1 right in 20 frames', 'clip.mp4 (without sound)', 'clip.json'):
        assert piece in said

    rows = facts['frames']
    assert [r['seconds'] for r in rows] == pytest.approx([i / 10 for i in range(20)])
    assert rows[0]['objects'] == [] and [len(r['objects']) for r in rows[1:]] == [2] * 19
    first, second = sorted(rows[7]['objects'], key=lambda o: o['id'])
    assert first == dict(id=1, label='right', score=.9, box=[28., 10., 68., 50.])
    assert second == dict(id=2, label='left', score=.9, box=[92., 60., 132., 100.])

    frames, times = read(tmp_path/'new'/'out'/'clip.mp4')
    assert len(frames) == 20 and frames[0].shape == (120, 160, 3)
    assert times == pytest.approx([i / 10 for i in range(20)], abs=1e-3)
    assert np.abs(frames[0].astype(int) - 60).max() < 6         # nothing is drawn yet
    for i in (5, 19):
        for x1, y1, x2, y2 in boxes(i):
            edge = frames[i][y2 - 1:y2 + 1, x1 + 8:x2 - 8].astype(int)
            assert np.abs(edge - 60).mean() > 25                # the frame of the box
            inside = frames[i][y1 + 26:y2 - 8, x1 + 8:x2 - 8].astype(int)
            assert np.abs(inside - 60).mean() < 12


def test_colours_stay_what_they_are(tmp_path, scripted):
    "OpenCV reads blue, green, red; the detector and the file must get red, green, blue."
    detector = scripted()
    orange = [np.full((120, 160, 3), (230, 120, 20), np.uint8)] * 3
    predict(video(tmp_path/'in.mp4', orange), tmp_path/'out')
    frames, _ = read(tmp_path/'out'/'in.mp4')
    for frame in (detector.frames[0], frames[0]):
        assert np.abs(frame.astype(int) - (230, 120, 20)).max() < 12


@pytest.mark.parametrize('suffix, codec', [('.avi', 'mpeg4'), ('.mkv', 'libx264')])
def test_other_containers_and_odd_sides(tmp_path, scripted, suffix, codec):
    scripted()
    source = tmp_path/f'clip{suffix}'
    with av.open(str(source), 'w') as container:
        stream = container.add_stream(codec, rate=12)
        stream.width = 161 if codec == 'mpeg4' else 160
        stream.height = 121 if codec == 'mpeg4' else 120
        stream.pix_fmt = 'yuv420p'
        for frame in grey(5, (stream.width, stream.height)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    facts = predict(source, tmp_path/'out')
    frames, _ = read(tmp_path/'out'/'clip.mp4')
    assert len(facts['frames']) == len(frames) == 5 and frames[0].shape == (120, 160, 3)
    assert facts['width'] == stream.width


def test_a_name_in_another_script_can_be_drawn(tmp_path, monkeypatch, scripted):
    detector = scripted()
    detector.vocab = Vocab(['Schlüssel', 'ключ'])
    monkeypatch.setattr('test_video.seen', lambda i: Detections(
        np.array(boxes(i), float), ['Schlüssel', 'ключ'], np.array([.9, .9]), BLACK))
    facts = predict(video(tmp_path/'in.mp4', grey(3)), tmp_path/'out')
    assert facts['counts'] == {'Schlüssel': 1, 'ключ': 1}


def test_a_cut_video_is_used_as_far_as_it_goes(tmp_path, scripted, capsys):
    "An AVI has its frame count in front, so a cut one can be told."
    scripted()
    noisy = np.random.default_rng(0).integers(0, 255, (40, 120, 160, 3), dtype=np.uint8)
    source = tmp_path/'cut.avi'
    with av.open(str(source), 'w') as container:
        stream = container.add_stream('mpeg4', rate=10)
        stream.width = 160
        stream.height = 120
        stream.pix_fmt = 'yuv420p'
        for frame in noisy:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    source.write_bytes(source.read_bytes()[:source.stat().st_size // 2])
    n = len(predict(source, tmp_path/'out')['frames'])
    assert 5 < n < 36
    assert f'cut.avi: only {n} of about 40 frames can be read' in capsys.readouterr().out


# ---- what is refused

def bad_file(folder, kind):
    file = folder/'bad.mp4'
    if kind == 'text': file.write_text('hello')
    if kind == 'empty': file.write_bytes(b'')
    if kind == 'cut': file.write_bytes(video(folder/'whole.mp4', grey()).read_bytes()[:900])
    if kind == 'no frames':
        # a file that is whole, with sound alone
        with av.open(str(file), 'w') as container:
            stream = container.add_stream('aac', rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    return file


@pytest.mark.parametrize('kind', ['text', 'empty', 'cut', 'no frames'])
def test_what_is_no_video_is_named_and_nothing_is_written(tmp_path, scripted, kind, capfd):
    scripted()
    file = bad_file(tmp_path, kind)
    with pytest.raises(ValueError, match=r'bad.mp4: not a video.*ffmpeg -i bad.mp4 again.mp4'):
        predict(file, tmp_path/'out')
    assert not (tmp_path/'out').exists()
    assert capfd.readouterr().err == ''          # OpenCV's own lines


def test_sources_that_are_not_there(tmp_path, scripted, capfd):
    scripted()
    with pytest.raises(FileNotFoundError, match='none.mp4: no such video'):
        predict(tmp_path/'none.mp4', tmp_path/'out')
    with pytest.raises(ValueError, match='webcam 97 gives no image.*connected.*webcam:1'):
        predict('webcam:97', tmp_path/'out')
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr().err == ''


def test_the_source_is_not_overwritten(tmp_path, scripted, monkeypatch):
    scripted()
    source = video(tmp_path/'clip.mp4', grey(3))
    before = source.read_bytes()
    monkeypatch.chdir(tmp_path)
    for out in (tmp_path, '.', tmp_path/'..'/tmp_path.name):
        with pytest.raises(ValueError, match='clip.mp4 would be overwritten.*another folder'):
            predict('clip.mp4', out)
    assert source.read_bytes() == before and os.listdir(tmp_path) == ['clip.mp4']


def test_the_place_for_the_video_is_a_file(tmp_path, scripted):
    scripted()
    (tmp_path/'out').write_text('mine')
    with pytest.raises(OSError, match='out'):
        predict(video(tmp_path/'clip.mp4', grey(3)), tmp_path/'out')
    assert (tmp_path/'out').read_text() == 'mine'


# ---- interruptions

def test_an_interruption_leaves_the_old_files_and_nothing_half(tmp_path, scripted):
    # so long that the encoder has written something before it is interrupted
    source = video(tmp_path/'clip.mp4', grey(120))
    scripted()
    predict(source, tmp_path/'out')
    before = {p.name: p.read_bytes() for p in (tmp_path/'out').iterdir()}
    scripted(stop_at=110)
    with pytest.raises(KeyboardInterrupt): predict(source, tmp_path/'out')
    assert {p.name: p.read_bytes() for p in (tmp_path/'out').iterdir()} == before
    scripted(stop_at=110)
    with pytest.raises(KeyboardInterrupt): predict(source, tmp_path/'second')
    assert list((tmp_path/'second').iterdir()) == []


class Camera:
    "A webcam for OpenCV that gives one grey image after the other, and tells no frame rate."
    def __init__(self, source): assert source == 1
    def get(self, what): return 0.
    def read(self): return True, np.full((120, 160, 3), 60, np.uint8)


def test_a_webcam_ends_with_an_interruption_and_is_kept(tmp_path, scripted, monkeypatch):
    import cv2
    clock = SimpleNamespace(monotonic=iter(np.arange(5, 25, .5)).__next__)
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    monkeypatch.setattr('ssd_tutorial.video.time', clock)
    detector = scripted(stop_at=12)
    facts = predict('webcam:1', tmp_path/'out')
    assert facts['annotated'] == 'webcam-1.mp4' and len(facts['frames']) == 12
    assert set(detector.sizes) == {1} and facts['counts'] == dict(left=1, right=1)
    frames, times = read(tmp_path/'out'/'webcam-1.mp4')
    assert len(frames) == 12
    # the clock's times, not those of a frame rate; its first is the start
    assert [r['seconds'] for r in facts['frames']] == [.5 * i for i in range(1, 13)]
    assert np.diff(times) == pytest.approx([.5] * 11, abs=2e-3)

    scripted(stop_at=0)
    with pytest.raises(KeyboardInterrupt): predict('webcam:1', tmp_path/'second')
    assert list((tmp_path/'second').iterdir()) == []


def test_importing_the_module_imports_none_of_the_extra():
    import subprocess
    code = ('import sys, ssd_tutorial.video; '
            'print(*[m for m in ("supervision", "trackers", "av", "cv2") if m in sys.modules])')
    command = [sys.executable, '-W', 'ignore', '-c', code]
    assert subprocess.check_output(command, text=True).split() == []
