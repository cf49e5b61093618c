/* Kernels of a module by their names, of which a processor computes some. After Python.h. */

#pragma once

#include <string.h>

/* A list of the names whose number `is_here` takes. */
static PyObject *names_here(const char *const *names, int count, int (*is_here)(int)) {
  PyObject *list = PyList_New(0);
  for (int kernel = 0; list && kernel < count; kernel++) {
    if (!is_here(kernel)) continue;
    PyObject *name = PyUnicode_FromString(names[kernel]);
    if (!name || PyList_Append(list, name)) Py_CLEAR(list);
    Py_XDECREF(name);
  }
  return list;
}

/* The number of a kernel that is to compute layers in so many threads; -1, with an exception, where it cannot. */
static int kernel_named(const char *wanted, int threads, Py_ssize_t layers, const char *const *names, int count,
                        int (*is_here)(int)) {
  for (int kernel = 0; kernel < count; kernel++)
    if (!strcmp(wanted, names[kernel]) && is_here(kernel) && threads >= 1 && layers >= 1) return kernel;
  PyErr_Format(PyExc_ValueError, "cannot run %s with %d threads here", wanted, threads);
  return -1;
}
