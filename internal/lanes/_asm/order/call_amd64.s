#include "textflag.h"

// func call(code unsafe.Pointer, p *byte, n int)
TEXT ·call(SB), NOSPLIT, $8-24
	MOVQ code+0(FP), AX
	MOVQ p+8(FP), DI
	MOVQ n+16(FP), CX
	CALL AX
	VZEROUPPER
	RET

#define FOUR IMULQ AX, AX; IMULQ AX, AX; IMULQ AX, AX; IMULQ AX, AX
#define SIXTEEN FOUR; FOUR; FOUR; FOUR

// func clock(n int)
// A multiplication takes 3 cycles.
TEXT ·clock(SB), NOSPLIT, $0-8
	MOVQ n+0(FP), CX

next:
	SIXTEEN
	SIXTEEN
	SIXTEEN
	DECQ CX
	JNE  next
	RET
