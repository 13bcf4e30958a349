#!/bin/sh
echo "hello from a substitute"
