# ruff: noqa: E501 - one case a line
"""HDF5: what a file reads from elsewhere, and configurations wherever they lie. The files were written by h5py 3.16, a few lines each, as told."""

from __future__ import annotations

import base64
import struct
import zlib

import pytest
from modelguard_serialization._readers import hdf5
from modelguard_serialization.testing import look_through

from modelguard import Severity

# zlib and base85 of files that h5py wrote; "_new" with libver="latest".
# storage: create_dataset("d", (4,), "f4", external=[("/etc/passwd", 0, 16)]), storage_new: "beside.bin"; link: ExternalLink("/etc/other.h5", "/a");
# virtual: a VirtualLayout of VirtualSource("../src.h5", "d"); text, fixed: attrs["model_config"] = text or numpy.bytes_, dense: beside nine more;
# weights: a group with two data sets, one compressed, and two attributes.
FILES = {
    "storage": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfHn5`dVe$!3nh{EOK<O1sFmXn(oCH){5NbZUx{x4OSCH!eXaHtU1`CAdU>F4>5qP*d27u@YC?A$ePcWgXOF>JI9u(Tk"
        "$iN0MixI|$q+~`$hyXNM!f9rpJV-`RK^`imz#z`SAYKoZX9cEUkUSF;6W9QD1`RNu5t>&FaHMmXe>tG`Gc&?+hya?(2)e|B1X?%;u%N2bPc2E-FGwsdE{DWO"
        "u%EvR$bT?@DKL+wX>tGn(SSRZ"
    ),
    "storage_new": (
        "c-rgqaB<`1lHy|K;9!7(|4{Iq5yCfsiZ9I(_4W5~31VWXU=l)B2m@S93_vYxJPbgJF=aE%JP!t{0jb{yjKNL-TEHm6z`(@F$jAbfgVD?)42*&b@=(44gE$9+"
        "cs-EC3UnPa7rO>fCj;1p4Ev!T<Uq4U07`QJeaXxS^Bqi-p@m^kfS(2oydJKO0U)*nR1E4NhWm`DYLilnGgDIak}~rkd;kQ`H0}"
    ),
    "link": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfDwt9EF!=;1%?PDCp!5nRm^ceqP68?}05x9$YF-3XJS51~71?}rdq%;?1|F`C0m$iv14^G@LRAM#hXGWwmkFM7v8PNf"
        "pi3B$)Uz=tK-|IMz*r%~z@VR6lB}O!l95`Zmto4Fp9oV20Dz)CSp"
    ),
    "link_new": ("c-rgqaB<`1lHy|K;9!7(|4^_Q$~S=0Q$xeL{XJZQm>4RUgpd`&02dPjBLf4QBm)B@hXZ2;P>p_SNwR)^Nk(dsUWO@yej)>dH3KCeG9f)0046pi$N"),
    "virtual": (
        "c-rgqaB<`1lHy|K;9!7(|4?vV5W+WriXS=u)X3k%C5VZkf=LKjAq;RaF)%VPu<<YeDaNwRF!MYZs0P|f)b4<tpm_cfcQ!I+U}O|wU|?coWMqM=h0)9+42*&b"
        "@=(44gE$9+cs-EC3Un<qHwPb3CG&Ykh*~hUg<(hn!M`>J?#})`U_S^T`3DH>VTxb^dV2cBMag;@rVJ?z%t+!Ozyu03kQfsqR1YIC@D%Mj`r%3z@H32pQ7{Td"
        "!6+C7qhJ(_f>AIEM!_f;1*2eq000-|H^="
    ),
    "text": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfI)qXAF!=;1%?PDCp!5nRm^d?7P68?}05xBM8N$ziiiZTbx+0s8ZqFzf*}%iqF#tqIK=~X{`UDfII#@akppw0U(DaI)"
        "u6Y<dp!V@HhyY!ao1c=J6Q7))mzJ3h5|?CT1nU%lyNLtEeX~JkG9%pV?(FZw$N<%VrVa$Em6CH3i;Ls)5_40PtQ3@jQwvK|^GY%kbCh%xlpyv3#jBNa5-U@S"
        "ih;~%bS*xKxk)LBXv)({^O8$4^YcI&luXK99YFx7Ca*Ln2SUaIHNaHGmsA#j&B}q8Ra+ZdTZ<B24*a8Obrg((Q7{Td!6+C7qhJ(_f>AIEM!_h+1prpTWyt"
    ),
    "fixed": (
        "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvfI9O2mF!=;1%?PDCp!5nRm^d?7P68?}05xBM8Nz=76%Pq=bwxHG-JVe}vVn)IV*rSbfbuz@^a&<Zb+B|8KqY$xq3IPp"
        "UGp%UfZE3kbPESVZhlH?PJD8HURq{4NL(1`kl9G?sa8tPNh~go&r8frRkBi03QjF7P0cIGOw3WzQBZ>D1BzEG<s??778L`T(db%y5_6MM648{WmF6XvWaj6A"
        "G$@&ryE=jZP)%NGP7Z{O1!{n)iZ7`w0GpKqF{`#Vwzd}RJ^=LuV^I"
    ),
    "dense": (
        "c-rgqaB<`1lHy|K;9!7(|4?ulDr5i^KUFoQ)!)M<h>5X?kx2+yB@A#eF)%VPhzc>VFfgoRgy?c$f@-&6WEchHgG;j+54i<-1TcVNg^59c0VBR%LIXGr7UC>u"
        "G!$?VX(J1gPKePOK>9LVOhc+D$0@|a1?VE6je<at6pbBBFgswjxLv=P<Q5E6#Q<|3BLgapurGk20%!+JW(U+JX$DlfNo(?Drw|`EpuIvMl`5bhU|@JJ9-zz+"
        "$AA!+<MrQ^p$SP~O=hVrgB6m%H2Eo^45yF;o}T(q%Mb-JbT35U1<U*f1~DWRi}yC{VK76oc1QR56Aa6cR2-Moe#7t%Nnq=QmH$PxZg`KTVd??5;9ysHLT3b~"
        "EO9WqUXQua&BMhBUiyH6vY_S?W(H;k9#DEtG++<_W+6z~=D@&&qz<9R5JL?kh8iObHB1<4j4{+OW2iB~P{V?u#uP&hD~1{~3^i;RYRoazuw$sPz)-^hSHlZr"
        "1J&f_r=;e@C+Fv-Wu`L-1A}HZ)c4g&$vKI|#qoKGxv5H43QEDLg{7%^C7FpiN;(Qk5Dh@_YNedS%G9D_ATt_Wi%(*1Qc5D4^0d;t<dV$%Jdg$@lX6!_5CE#l"
        "E6vG)kg-4wFjes-l?7n4av)~a*2dP>j^>#W0sw`#wnG"
    ),
    "weights": (
        "c-rlnzfaph6vyxEm^g$82L%Bs5_Cg?O0cm3f`EsrASe<O#3e>Zgiw*F4HJwo!Pv1<myV4515{o5KcG$>yD-C@?>+1@NflID5WG(mJ>U8H&bs^R`F<U_GqaiY"
        "d^?laHcK#vMY#fg4C`sUUj)m+9)kU9V7?XH>xFy=%D>F(&%a$P6r}f646NtEQr2d~bHpu7El9g^qa($4L-#9td;V@U)T8^C_442s>Ng8DyQWHSTCM5#SBmsY"
        "`n|2+LreE7`IV~A?oYo<Z{}yDf>C#arXH{3IwtNG2Nsel{XW%N9Qd7~I6!gWb{sfK>3$zP`4#(jabPH^$AP$xiMz#tm9$FNGp)q|*U|f*c;0aU_4FyD`;CGf"
        "i_Nnp?<o$9ruA~;IwqRM0X471hU08VSwm&uw4|9eMUP9*?BIZya|a_c)?>4teYkIl9+LMBLltO)LQH;=Z5%o35856|SH_L5#ykJ)k8l4uOIp%7n27#4Ym4bj"
        ">40;UF#`E$P0_OQ(h(hjy3+JyDm|q|J`c*la_!*DR`NH>Ud@MRBf2w;)2^_pMEJg&|Fw1Gca=Bzu68%^zsT!pY^MYXjUWhuAf7Ds)%8-bSnNOlQqLX#e0jjX"
        "&GJ{c3AH?|51l(;S|tZVIq`qzt#A3266+JABnJkq9EL^FNt4_?TYeEvq~@mQU-QT)H|i&;`IYL<?nZg%qdqCXHCS8(M$S5^BME{a2!bF8f*=Uuv4MvI;)h{7"
        "V7r%#s~qc9hZWZ<-nJi{^<aIRHC|_cT^d|R;F0wLTz8OFTmxATwF3"
    ),
    "weights_new": (
        "c-rgqaB<`1lHy|K;9!7(|4<+<3gH_-#m(M-Jnrw|62!z%!6byN5C*uI7#JBC*aR7X6kASWWol9JW~g3KAqEyq4FUoT43#Vp6|PW~AhCTS5OyTYNvu#>_?FF7"
        "Vw@lVasq2gYF=@w86#A$3j<Yv)#^w2#5jQ;<OG(o#G>MzFc-K|#{~?1(Qhq@aRLv>35*6dOb~5QzF`D2)Eo=)oiMjabPL!CKm!?77#NtC7#X3~FyNw@MHm<b"
        "733Kp5w5@>&cPsF4~kr%Yniz?fIeYn^nkie0A|qwhCvTR%-G5q7#i%6F+6O5DH#|vj5^RX0Hc|C7#IbBSq>H!;4t9k28sezgJKCR!yyL>9U#zQWMN<wMY1ym"
        "nrj&54DPUbuGzA_A}%>4At6EL=;8{I{zr-pjK|y<b^V<^ym>5v0l~n*AOiAiQetv;YF-M1B+&l?&=dd(EDmrA;sWA*P+x<@ch528cX#&pVMIzUu#Cn9rAvSX"
        "Kz>nLPJTIRN`w_B-~s~4wLAD3M!_f;1*2dTjDk@x3P!;w7zLwX6pVsVFvtLS5WyETh`_@j0)!0ULC5&K#N5<k21!N+%z*?(AYecpEMP?%SO5(W?2(E;0{~~q"
        "ri="
    ),
}


def file(name: str) -> bytes:
    return zlib.decompress(base64.b85decode(FILES[name]))


def with_user_block(data: bytes, size: int) -> bytes:
    """The file behind ``size`` bytes of something else, which HDF5 allows; version 0 keeps the position as its base address."""
    assert data[8] == 0
    return b"#!/bin/sh\n".ljust(size, b" ") + data[:24] + size.to_bytes(8, "little") + data[32:]


# https://nvd.nist.gov/vuln/detail/CVE-2026-1669, https://github.com/keras-team/keras/pull/22976 (virtual data sets)
@pytest.mark.parametrize(
    ("name", "named", "severity"),
    [
        ("storage", "/etc/passwd", Severity.CRITICAL),
        ("storage_new", "beside.bin", None),
        ("link", "/etc/other.h5", Severity.CRITICAL),
        ("link_new", "/etc/other.h5", Severity.CRITICAL),
        ("virtual", "../src.h5", Severity.CRITICAL),
    ],
)
def test_bytes_that_lie_in_other_files_are_told(name: str, named: str, severity: Severity | None) -> None:
    look, by = look_through("model.weights.h5", file(name))
    assert [(finding.rule, finding.severity) for finding in look.findings] == [("MG0336", severity)]
    assert named in look.findings[0].message
    assert [reader.what for reader in by] == ["an HDF5 file"]


# https://github.com/io-no/CVE-Reports/issues/7 (CVE-2025-9905): safe_mode does not hold for H5
@pytest.mark.parametrize("name", ["text", "fixed", "dense"])
def test_a_lambda_is_found_however_the_attribute_is_stored(name: str) -> None:
    look, _ = look_through("model.h5", file(name))
    assert [(finding.rule, finding.severity) for finding in look.findings] == [("MG0330", None)]


@pytest.mark.parametrize("size", [512, 1024, 4096])
@pytest.mark.parametrize(("name", "rule"), [("text", "MG0330"), ("storage", "MG0336"), ("link", "MG0336")])
def test_a_file_behind_a_user_block_is_looked_through_too(name: str, rule: str, size: int) -> None:
    look, by = look_through("notes.txt", with_user_block(file(name), size))
    assert [finding.rule for finding in look.findings] == [rule]
    assert "an HDF5 file" in [reader.what for reader in by]


@pytest.mark.parametrize("name", ["weights", "weights_new"])
def test_ordinary_weights_are_read_and_no_finding(name: str) -> None:
    look, by = look_through("model.weights.h5", file(name))
    assert (look.findings, look.missed) == ([], [])
    assert [reader.format for reader in by] == ["hdf5"]


def test_a_configuration_without_code_is_no_finding() -> None:
    data = (
        file("text").replace(b'"class_name": "Lambda"', b'"class_name": "Dense" ').replace(b'["4wEAAAAA", null, null]', b'"relu"'.ljust(24))
    )
    look, _ = look_through("model.h5", data)
    assert (look.findings, look.missed) == ([], [])


def test_escapes_in_the_keys_hide_nothing() -> None:
    look, _ = look_through("model.h5", file("text").replace(b'"class_name": "Lambda"', rb'"class\u005fname": "\u004cambda"'))
    assert [finding.rule for finding in look.findings] == ["MG0330"]


# https://github.com/PyTables/PyTables/blob/master/tables/attributeset.py: attributes are unpickled as they are read
def test_a_pickle_in_an_attribute_of_pytables_is_told() -> None:
    attribute = b"CLASS\0\0\0GROUP" + b"cos\nsystem\n(S'id'\ntR."
    look, _ = look_through("table.h5", file("weights") + attribute)
    assert [(finding.rule, finding.severity) for finding in look.findings] == [("MG0338", Severity.HIGH)]
    look, _ = look_through("table.h5", file("weights") + b"CLASS\0\0\0GROUP TITLE")
    assert look.findings == []


def test_a_link_with_more_behind_its_names_is_one_all_the_same() -> None:
    message = b"\1\x08\x40\1x" + struct.pack("<H", 24) + b"\0/etc/p\xe4sswd\0/a\0more!!!!".ljust(24, b"!")
    look, _ = look_through("model.h5", file("weights") + message)
    assert [(finding.rule, finding.severity) for finding in look.findings] == [("MG0336", Severity.CRITICAL)]


def test_what_lies_across_two_windows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_WINDOW", 100)
    for name, rule in (("text", "MG0330"), ("dense", "MG0330"), ("storage", "MG0336"), ("link_new", "MG0336"), ("virtual", "MG0336")):
        look, _ = look_through("model.h5", file(name))
        assert [finding.rule for finding in look.findings] == [rule]


def test_a_superblock_of_another_kind_is_not_looked_at() -> None:
    data = bytearray(file("weights"))
    data[13] = 4
    look, _ = look_through("model.h5", bytes(data))
    assert "addresses" in look.missed[0]


def test_a_configuration_that_does_not_end_is_not_looked_at() -> None:
    data = file("text").replace(b"}}]}}", b"     ")
    look, _ = look_through("model.h5", data)
    assert look.missed
