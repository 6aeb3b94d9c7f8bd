/* What Python sees of the reactor: Reactor, Line, Capture. Limited API, so one build serves every Python. */
#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
/* The interpreter's lock is kept throughout: nothing here waits longer than one read takes. */
#include <Python.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "loop.h"

typedef struct {
    PyObject_HEAD
    capture_t *capture;
    PyObject *words; /* bytes: four for each number below modulus */
    Py_ssize_t modulus;
} CaptureObject;

typedef struct {
    PyObject_HEAD
    loop_t loop;
    int running;
} ReactorObject;

typedef struct {
    PyObject_HEAD
    ReactorObject *reactor;
    line_t *line;
    PyObject *owner, *capture; /* the capture is attached */
} LineObject;

typedef struct {
    PyTypeObject *capture, *reactor, *line;
} state_t;

static void free_object(PyObject *self) {
    PyTypeObject *type = Py_TYPE(self);
    freefunc release = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release(self);
    Py_DECREF((PyObject *)type);
}

static void *new_object(PyTypeObject *type) {
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return allocate(type, 0);
}

/* --- Capture --- */

static PyObject *Capture_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    PyObject *words;
    Py_ssize_t modulus;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "Sn:Capture", &words, &modulus)) return NULL;
    if (modulus < 1 || PyBytes_Size(words) / 4 < modulus) {
        PyErr_SetString(PyExc_ValueError, "a Capture needs four letters for each number below its modulus");
        return NULL;
    }
    CaptureObject *self = new_object(type);
    if (!self) return NULL;
    self->words = words;
    Py_INCREF(words);
    self->modulus = modulus;
    if (!(self->capture = capture_new())) {
        Py_DECREF((PyObject *)self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void Capture_dealloc(CaptureObject *self) {
    if (self->capture) capture_release(self->capture);
    Py_XDECREF(self->words);
    free_object((PyObject *)self);
}

static Py_ssize_t Capture_length(CaptureObject *self) {
    return (Py_ssize_t)__atomic_load_n(&self->capture->count, __ATOMIC_ACQUIRE);
}

/* A piece as stamps.Piece: (ancillary data, bytes, when it was read). */
static PyObject *Capture_item(CaptureObject *self, Py_ssize_t index) {
    capture_t *capture = self->capture;
    if (index < 0 || index >= Capture_length(self)) {
        PyErr_SetString(PyExc_IndexError, "no such piece");
        return NULL;
    }
    pthread_mutex_lock(&capture->lock);
    char scratch[FOLDED_BYTES];
    size_t size;
    const piece_t piece = capture->pieces[index];
    const char *data = capture_piece(capture, (size_t)index, scratch, &size);
    PyObject *bytes = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    pthread_mutex_unlock(&capture->lock);
    if (!bytes) return NULL;
    if (!piece.kernel_ns) return Py_BuildValue("[]NL", bytes, (long long)piece.read_ns);
    const struct timespec stamp = {piece.kernel_ns / 1000000000, piece.kernel_ns % 1000000000};
    return Py_BuildValue("[(iiy#)]NL", SOL_SOCKET, SCM_TIMESTAMPNS, (const char *)&stamp, (Py_ssize_t)sizeof stamp,
                         bytes, (long long)piece.read_ns);
}

static PyObject *Capture_whole(CaptureObject *self, PyObject *argument) {
    const Py_ssize_t index = PyLong_AsSsize_t(argument);
    if (index == -1 && PyErr_Occurred()) return NULL;
    if (index < 0 || index > Capture_length(self)) return PyLong_FromLong(0);
    pthread_mutex_lock(&self->capture->lock);
    const size_t count = capture_whole(self->capture, (size_t)index);
    pthread_mutex_unlock(&self->capture->lock);
    return PyLong_FromSize_t(count);
}

static PyObject *Capture_body(CaptureObject *self, PyObject *argument) {
    const Py_ssize_t index = PyLong_AsSsize_t(argument);
    if (index == -1 && PyErr_Occurred()) return NULL;
    if (index < 0 || index >= Capture_length(self)) {
        PyErr_SetString(PyExc_IndexError, "no such piece");
        return NULL;
    }
    char scratch[FOLDED_BYTES];
    size_t data = 0, length = 0, size;
    capture_t *capture = self->capture;
    pthread_mutex_lock(&capture->lock);
    const char *piece = capture_piece(capture, (size_t)index, scratch, &size);
    framing_whole(piece, size, &data, &length);
    PyObject *bytes = PyBytes_FromStringAndSize(piece + data, (Py_ssize_t)length);
    pthread_mutex_unlock(&capture->lock);
    return bytes;
}

/* (before, after, start, step, limit) */
static int as_like(CaptureObject *self, Py_ssize_t index, PyObject *tuple, like_t *like) {
    Py_ssize_t start, step, limit, before_size, after_size;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a run wants a Like");
        return 0;
    }
    if (!PyArg_ParseTuple(tuple, "y#y#nnn:Like", &like->before, &before_size, &like->after, &after_size, &start, &step, &limit))
        return 0;
    if (index < 0 || step < 0 || start < 0 || start >= self->modulus) {
        PyErr_SetString(PyExc_ValueError, "a run needs index and step >= 0 and a start below the modulus");
        return 0;
    }
    like->words = PyBytes_AsString(self->words);
    like->before_size = (size_t)before_size, like->after_size = (size_t)after_size, like->modulus = (size_t)self->modulus;
    like->start = (size_t)start, like->step = (size_t)step, like->limit = limit > 0 ? (size_t)limit : 0;
    return 1;
}

/* run(index, end, like) */
static PyObject *Capture_run(CaptureObject *self, PyObject *args) {
    Py_ssize_t index, end;
    PyObject *tuple;
    like_t like;
    if (!PyArg_ParseTuple(args, "nnO:run", &index, &end, &tuple) || !as_like(self, index, tuple, &like)) return NULL;
    if (index >= end || index > Capture_length(self)) return PyLong_FromLong(0);
    pthread_mutex_lock(&self->capture->lock);
    const size_t count = capture_run(self->capture, (size_t)index, (size_t)end, &like);
    pthread_mutex_unlock(&self->capture->lock);
    return PyLong_FromSize_t(count);
}

static PyObject *as_list(const int64_t *values, size_t count) {
    PyObject *list = PyList_New((Py_ssize_t)count);
    for (size_t n = 0; list && n < count; n++) {
        PyObject *value = PyLong_FromLongLong(values[n]);
        if (!value || PyList_SetItem(list, (Py_ssize_t)n, value)) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

/* times(start_ns, offset_start_ns, offset_end_ns) */
static PyObject *Capture_times(CaptureObject *self, PyObject *args) {
    long long start_ns, offset_start_ns, offset_end_ns;
    if (!PyArg_ParseTuple(args, "LLL:times", &start_ns, &offset_start_ns, &offset_end_ns)) return NULL;
    const size_t count = (size_t)Capture_length(self);
    int64_t *times = PyMem_Malloc((count ? count : 1) * sizeof *times);
    if (!times) return PyErr_NoMemory();
    pthread_mutex_lock(&self->capture->lock);
    capture_times(self->capture, count, start_ns, offset_start_ns, offset_end_ns, times);
    pthread_mutex_unlock(&self->capture->lock);
    PyObject *list = as_list(times, count);
    PyMem_Free(times);
    return list;
}

/* joined(): the pieces that more of the same read's body follows, in order */
static PyObject *Capture_joined(CaptureObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    const size_t count = (size_t)Capture_length(self);
    pthread_mutex_lock(&self->capture->lock);
    for (size_t n = 0; list && n < count; n++) {
        if (!capture_joined(self->capture, n)) continue;
        PyObject *number = PyLong_FromSize_t(n);
        if (!number || PyList_Append(list, number)) Py_CLEAR(list);
        Py_XDECREF(number);
    }
    pthread_mutex_unlock(&self->capture->lock);
    return list;
}

static PyObject *Capture_kept(CaptureObject *self, PyObject *unused) {
    (void)unused;
    pthread_mutex_lock(&self->capture->lock);
    const size_t used = self->capture->used;
    pthread_mutex_unlock(&self->capture->lock);
    return PyLong_FromSize_t(used);
}

/* room(): bytes of memory that it holds, for tests */
static PyObject *Capture_room(CaptureObject *self, PyObject *unused) {
    (void)unused;
    pthread_mutex_lock(&self->capture->lock);
    const size_t room = self->capture->size + self->capture->room * sizeof(piece_t);
    pthread_mutex_unlock(&self->capture->lock);
    return PyLong_FromSize_t(room);
}

static PyObject *Capture_since(CaptureObject *self, PyObject *argument) {
    const Py_ssize_t index = PyLong_AsSsize_t(argument);
    if (index == -1 && PyErr_Occurred()) return NULL;
    if (index < 0 || index >= Capture_length(self)) return PyLong_FromLong(0);
    pthread_mutex_lock(&self->capture->lock);
    const int64_t since_ns = self->capture->pieces[index].since_ns;
    pthread_mutex_unlock(&self->capture->lock);
    return PyLong_FromLongLong(since_ns);
}

/* append(bytes, kernel_ns, read_ns, between=True): what the thread does, for tests */
static PyObject *Capture_append(CaptureObject *self, PyObject *args) {
    const char *data;
    Py_ssize_t size;
    long long kernel_ns, read_ns;
    int between = 1;
    if (!PyArg_ParseTuple(args, "y#LL|p:append", &data, &size, &kernel_ns, &read_ns, &between)) return NULL;
    if (size > READ_BYTES) {
        PyErr_SetString(PyExc_ValueError, "more than one read brings");
        return NULL;
    }
    pthread_mutex_lock(&self->capture->lock);
    char *to = capture_room(self->capture);
    if (to) {
        memcpy(to, data, (size_t)size);
        capture_take(self->capture, (size_t)size, kernel_ns, read_ns, 0, between);
    }
    pthread_mutex_unlock(&self->capture->lock);
    if (!to) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef capture_methods[] = {
    {"whole", (PyCFunction)Capture_whole, METH_O, "how many pieces from an index on are exactly one chunk each"},
    {"body", (PyCFunction)Capture_body, METH_O, "what the chunk of a whole piece holds"},
    {"run", (PyCFunction)Capture_run, METH_VARARGS, "how many whole pieces from an index on hold one like event each"},
    {"times", (PyCFunction)Capture_times, METH_VARARGS, "receive times on CLOCK_MONOTONIC"},
    {"joined", (PyCFunction)Capture_joined, METH_NOARGS, "the pieces that more of the same read's body follows"},
    {"kept", (PyCFunction)Capture_kept, METH_NOARGS, "bytes that are kept, folded pieces not among them"},
    {"room", (PyCFunction)Capture_room, METH_NOARGS, "bytes of memory that it holds"},
    {"since", (PyCFunction)Capture_since, METH_O, "before this instant nothing of a piece could be read, 0: not known"},
    {"append", (PyCFunction)Capture_append, METH_VARARGS, "add what a read brings, between two chunks or not"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot capture_slots[] = {
    {Py_tp_new, Capture_new},         {Py_tp_dealloc, Capture_dealloc}, {Py_sq_length, Capture_length},
    {Py_sq_item, Capture_item},       {Py_tp_methods, capture_methods}, {Py_tp_doc, "Pieces of one answer."},
    {0, NULL},
};
static PyType_Spec capture_spec = {"harness.traffic.reactor._native.Capture", sizeof(CaptureObject), 0,
                                   Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, capture_slots};

/* --- Line --- */

static void close_line(LineObject *self) {
    line_t *line = self->line;
    self->line = NULL;
    if (!line) return;
    if (self->reactor->running) {
        loop_close(&self->reactor->loop, line);
    } else {
        line_free(line);
    }
}

static void Line_dealloc(LineObject *self) {
    if (self->reactor) close_line(self);
    Py_XDECREF(self->owner);
    Py_XDECREF(self->capture);
    Py_XDECREF((PyObject *)self->reactor);
    free_object((PyObject *)self);
}

static int is_open(LineObject *self) { return self->line && self->reactor->running; }

static PyObject *Line_attach(LineObject *self, PyObject *args) {
    state_t *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    PyObject *capture;
    int eager;
    if (!state || !PyArg_ParseTuple(args, "Op:attach", &capture, &eager)) return NULL;
    if (!PyObject_TypeCheck(capture, state->capture)) {
        PyErr_SetString(PyExc_TypeError, "attach wants a Capture");
        return NULL;
    }
    if (!is_open(self)) Py_RETURN_FALSE;
    const int usable = loop_attach(&self->reactor->loop, self->line, ((CaptureObject *)capture)->capture, eager);
    if (usable) {
        Py_INCREF(capture);
        Py_XDECREF(self->capture);
        self->capture = capture;
    }
    return PyBool_FromLong(usable);
}

/* expect(index, like): True: quiet while pieces from index on are like this; False: look at once */
static PyObject *Line_expect(LineObject *self, PyObject *args) {
    Py_ssize_t index;
    like_t like;
    PyObject *tuple;
    if (!PyArg_ParseTuple(args, "nO:expect", &index, &tuple)) return NULL;
    if (!self->capture || !is_open(self)) Py_RETURN_FALSE;
    if (!as_like((CaptureObject *)self->capture, index, tuple, &like)) return NULL;
    const int quiet = index <= Capture_length((CaptureObject *)self->capture) ? loop_expect(self->line, (size_t)index, &like) : 0;
    return quiet < 0 ? PyErr_NoMemory() : PyBool_FromLong(quiet);
}

static PyObject *Line_detach(LineObject *self, PyObject *unused) {
    (void)unused;
    if (is_open(self)) loop_detach(&self->reactor->loop, self->line);
    Py_CLEAR(self->capture);
    Py_RETURN_NONE;
}

static PyObject *Line_pause(LineObject *self, PyObject *unused) {
    (void)unused;
    if (is_open(self)) loop_pause(&self->reactor->loop, self->line);
    Py_RETURN_NONE;
}

static PyObject *Line_close(LineObject *self, PyObject *unused) {
    (void)unused;
    close_line(self);
    Py_CLEAR(self->owner);
    Py_CLEAR(self->capture);
    Py_RETURN_NONE;
}

static PyMethodDef line_methods[] = {
    {"attach", (PyCFunction)Line_attach, METH_VARARGS, "read into a capture from now on; False: nothing will come"},
    {"expect", (PyCFunction)Line_expect, METH_VARARGS, "be quiet about pieces that are like this"},
    {"detach", (PyCFunction)Line_detach, METH_NOARGS, "the capture is done"},
    {"pause", (PyCFunction)Line_pause, METH_NOARGS, "read no more"},
    {"close", (PyCFunction)Line_close, METH_NOARGS, "forget the socket, which may be closed then"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot line_slots[] = {
    {Py_tp_dealloc, Line_dealloc}, {Py_tp_methods, line_methods}, {Py_tp_doc, "One connection's socket."}, {0, NULL},
};
static PyType_Spec line_spec = {"harness.traffic.reactor._native.Line", sizeof(LineObject), 0,
                                Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, line_slots};

/* --- Reactor --- */

static PyObject *Reactor_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs;
    ReactorObject *self = new_object(type);
    if (!self) return NULL;
    const int error = loop_start(&self->loop);
    if (error) {
        Py_DECREF((PyObject *)self);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    self->running = 1;
    return (PyObject *)self;
}

static void stop(ReactorObject *self) {
    if (!self->running) return;
    self->running = 0;
    Py_BEGIN_ALLOW_THREADS
    loop_stop(&self->loop);
    Py_END_ALLOW_THREADS
}

static void Reactor_dealloc(ReactorObject *self) {
    stop(self);
    free_object((PyObject *)self);
}

static PyObject *Reactor_close(ReactorObject *self, PyObject *unused) {
    (void)unused;
    stop(self);
    Py_RETURN_NONE;
}

static PyObject *Reactor_fileno(ReactorObject *self, PyObject *unused) {
    (void)unused;
    return PyLong_FromLong(self->loop.wake);
}

static PyObject *Reactor_open(ReactorObject *self, PyObject *args) {
    state_t *state = PyType_GetModuleState(Py_TYPE((PyObject *)self));
    PyObject *owner;
    int fd, error = 0;
    if (!state || !PyArg_ParseTuple(args, "iO:open", &fd, &owner)) return NULL;
    if (!self->running) {
        PyErr_SetString(PyExc_ValueError, "the reactor is closed");
        return NULL;
    }
    LineObject *line = new_object(state->line);
    if (!line) return NULL;
    line->reactor = self;
    Py_INCREF((PyObject *)self);
    line->line = loop_open(&self->loop, fd, line, &error);
    if (!line->line) {
        Py_DECREF((PyObject *)line);
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    line->owner = owner;
    Py_INCREF(owner);
    return (PyObject *)line;
}

/* take(): [(owner, events, errno), ...] */
static PyObject *Reactor_take(ReactorObject *self, PyObject *unused) {
    (void)unused;
    PyObject *list = PyList_New(0);
    if (!list || !self->running) return list;
    loop_drain(&self->loop);
    line_t *line;
    int events, code;
    while ((line = loop_take(&self->loop, &events, &code))) {
        PyObject *entry = Py_BuildValue("Oii", ((LineObject *)line->owner)->owner, events, code);
        const int failed = !entry || PyList_Append(list, entry);
        Py_XDECREF(entry);
        if (failed) {
            Py_DECREF(list);
            return NULL;
        }
    }
    return list;
}

static PyMethodDef reactor_methods[] = {
    {"open", (PyCFunction)Reactor_open, METH_VARARGS, "read a socket for an owner; its Line"},
    {"take", (PyCFunction)Reactor_take, METH_NOARGS, "what owners must be told: (owner, events, errno)"},
    {"fileno", (PyCFunction)Reactor_fileno, METH_NOARGS, "readable while there is something to take"},
    {"close", (PyCFunction)Reactor_close, METH_NOARGS, "end the thread"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot reactor_slots[] = {
    {Py_tp_new, Reactor_new}, {Py_tp_dealloc, Reactor_dealloc}, {Py_tp_methods, reactor_methods},
    {Py_tp_doc, "A thread that reads sockets."}, {0, NULL},
};
static PyType_Spec reactor_spec = {"harness.traffic.reactor._native.Reactor", sizeof(ReactorObject), 0,
                                   Py_TPFLAGS_DEFAULT, reactor_slots};

/* --- the module --- */

/* looks(pieces): after which of them the thread wakes Python, as a list of bool; for tests */
static PyObject *looks(PyObject *module, PyObject *pieces) {
    (void)module;
    const Py_ssize_t count = PyTuple_Check(pieces) ? PyTuple_Size(pieces) : -1;
    if (count < 0) {
        PyErr_SetString(PyExc_TypeError, "looks wants a tuple of bytes");
        return NULL;
    }
    framing_t framing;
    framing_reset(&framing);
    PyObject *list = PyList_New(count);
    char *all = NULL;
    size_t used = 0;
    for (Py_ssize_t n = 0; list && n < count; n++) {
        char *data;
        Py_ssize_t size;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(pieces, n), &data, &size)) break;
        char *larger = PyMem_Realloc(all, used + (size_t)size + 1);
        if (!larger) {
            PyErr_NoMemory();
            break;
        }
        all = larger;
        memcpy(all + used, data, (size_t)size);
        framing_feed(&framing, all, used, used + (size_t)size);
        used += (size_t)size;
        PyList_SetItem(list, n, PyBool_FromLong(framing_wants_look(&framing)));
    }
    PyMem_Free(all);
    if (PyErr_Occurred()) Py_CLEAR(list);
    return list;
}

static PyMethodDef functions[] = {
    {"looks", looks, METH_O, "after which pieces of an answer Python is woken"},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type && PyModule_AddType(module, type)) Py_CLEAR(type);
    return type;
}

static int set_up(PyObject *module) {
    state_t *state = PyModule_GetState(module);
    if (!(state->capture = add_type(module, &capture_spec))) return -1;
    if (!(state->line = add_type(module, &line_spec))) return -1;
    if (!(state->reactor = add_type(module, &reactor_spec))) return -1;
    /* raise it, and native.INTERFACE with it, when what this module takes or gives changes */
    if (PyModule_AddIntConstant(module, "INTERFACE", 2)) return -1;
    if (PyModule_AddIntConstant(module, "LOOK", LINE_LOOK) || PyModule_AddIntConstant(module, "LOST", LINE_LOST) ||
        PyModule_AddIntConstant(module, "LOOSE", LINE_LOOSE))
        return -1;
    return 0;
}

static void tear_down(void *module) {
    state_t *state = PyModule_GetState((PyObject *)module);
    Py_CLEAR(state->capture);
    Py_CLEAR(state->line);
    Py_CLEAR(state->reactor);
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, set_up}, {0, NULL}};
static PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "The reactor: receives without the interpreter's lock.", sizeof(state_t), functions,
    module_slots, NULL, NULL, tear_down};

PyMODINIT_FUNC PyInit__native(void) { return PyModuleDef_Init(&definition); }
